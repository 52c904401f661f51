"""The sentences of InductionDataset's people, and their last names."""

# {first} {last} is named in full, and comes back by the first name; {between} are further sentences.
WORDINGS = (
    "A letter for {first} {last} came this morning.{between} On the envelope it said {first}",
    "The new doctor is called {first} {last}.{between} By now everybody in town knows {first}",
    "My neighbor {first} {last} grows tomatoes.{between} Only yesterday I talked to {first}",
    "We listened to a talk by {first} {last}.{between} At the end we all thanked {first}",
    "The first prize went to {first} {last}.{between} The whole room stood up for {first}",
    "She had read a book by {first} {last}.{between} Then she wrote a letter to {first}",
)
BETWEEN = (
    " It was a rainy day.",
    " Nobody was surprised by that.",
    " Then the phone rang for a while.",
    " The street was very quiet at night.",
    " Some people were late again.",
    " The old clock had stopped.",
    " There was soup for dinner.",
    " Two dogs ran across the road.",
)

_LAST_NAMES = """
Adams Anderson Andrews Armstrong Bailey Baker Barnes Bell Bennett Black Bradley Brooks Brown Bryant Burns Butler
Campbell Carpenter Carroll Carter Clark Cole Coleman Collins Cook Cooper Cox Crawford Cunningham Davis Dixon Duncan
Dunn Edwards Elliott Ellis Evans Fisher Ford Foster Fox Franklin Freeman Gardner Gibson Gordon Graham Grant Gray
Green Griffin Hall Hamilton Harris Harrison Hart Hawkins Hayes Henderson Hicks Hill Holmes Hudson Hughes Hunt Hunter
Jackson Jenkins Johnson Jones Kennedy King Knight Lane Lawson Lee Lewis Long Marshall Mason Miller Mills Mitchell
Moore Morgan Morris Murphy Murray Myers Nelson Nichols Olson Owens Palmer Parker Patterson Payne Perkins Perry Peters
Peterson Pierce Porter Powell Price Reed Reynolds Rice Richardson Riley Roberts Robertson Robinson Rogers Ross Russell
Sanders Shaw Simmons Simpson Smith Snyder Spencer Stevens Stewart Stone Sullivan Taylor Thompson Tucker Turner Wagner
Walker Wallace Ward Warren Watkins Watson Weaver Webb Wells West White Wilson Wood Woods Wright Young
"""
LAST_NAMES = tuple(_LAST_NAMES.split())
