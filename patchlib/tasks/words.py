"""The words of the tasks: our own wordings, and common English names, places and objects for their slots."""

# IOIDataset. Every wording has 16 words and punctuation marks, so that under a GPT-2-like tokenizer all prompts have
# one length and form one batch. {A} and {B} are the two names of the first clause in either order, {S} is the subject
# that comes back. A wording never starts with a name, which would be another token without its space.
SEED_WORDING = "When {A} and {B} went to the {place}, {S} gave a {object} to"

# (indirect object, subject, place, object)
SEED_FILLS = (
    ("Mary", "John", "store", "drink"),
    ("Sarah", "Michael", "park", "book"),
    ("Emily", "David", "office", "letter"),
    ("Anna", "James", "school", "pencil"),
    ("Lisa", "Robert", "restaurant", "gift"),
)

IOI_WORDINGS = (
    "While {A} and {B} were waiting outside the old {place}, {S} handed the {object} to",
    "On Monday {A} and {B} met near the {place}, and {S} showed the {object} to",
    "Once {A} and {B} had finally reached the {place}, {S} happily threw the {object} to",
    "Night fell as {A} and {B} reached the {place}, and {S} gave the {object} to",
    "Last Friday {A} and {B} were sitting in the {place} when {S} offered a {object} to",
    "As soon as {A} and {B} arrived at the {place}, {S} presented a {object} to",
    "Our neighbors {A} and {B} walked home from the {place}. {S} gave the {object} to",
    "At the {place}, {A} and {B} sat down together. {S} passed the {object} to",
    "During lunch, {A} and {B} talked at the {place}. {S} gave a {object} to",
    "The old friends {A} and {B} met at the {place}. {S} gave the {object} to",
    "When we saw {A} and {B} near the {place}, {S} was giving a {object} to",
    "Just after {A} and {B} opened the new {place}, {S} gave a nice {object} to",
    "Inside the {place}, {A} and {B} started to talk. {S} gave the {object} to",
    "Early this morning {A} and {B} cleaned the {place}, and {S} gave the {object} to",
    "Some people saw {A} and {B} outside the {place}. {S} was giving a {object} to",
    "After dinner {A} and {B} stopped at the {place}, and {S} bought a {object} for",
)

_NAMES = """
Aaron Adam Alan Albert Alex Alice Alison Allison Amanda Amber Amy Andrea Andrew Angela Ann Anna Anne Anthony
Arthur Barbara Ben Benjamin Betty Brandon Brian Bruce Carl Carol Caroline Catherine Charles Charlotte Chris
Christina Christine Christopher Claire Daniel David Dennis Diana Donald Dorothy Douglas Edward Elizabeth
Ellen Emily Emma Eric Eva Frank Fred Gary George Grace Greg Hannah Harold Harry Heather Helen Henry Howard
Jack Jacob James Jane Janet Jason Jeff Jennifer Jeremy Jessica Jim Joan Joe John Jonathan Joseph Joshua
Julia Julie Justin Karen Kate Katherine Keith Kelly Kenneth Kevin Kyle Larry Laura Lauren Leo Linda Lisa
Louis Lucy Margaret Maria Marie Mark Martha Martin Mary Matthew Megan Melissa Michael Michelle Nancy Nathan
Nicholas Nicole Oliver Oscar Patricia Patrick Paul Peter Philip Rachel Ralph Raymond Rebecca Richard Robert
Roger Rose Roy Ruth Ryan Sam Samantha Samuel Sandra Sara Sarah Scott Sean Simon Sophie Stephanie Stephen
Steve Steven Susan Theresa Thomas Tim Timothy Tom Tony Tyler Vanessa Victoria Vincent Walter Wendy William
"""
NAMES = tuple(_NAMES.split())

# Each fits after "at the", "in the", "to the" and "outside the".
_PLACES = """
airport bakery bank bar barn beach cafe camp castle church cinema clinic club college court factory farm
gallery garden gym hall hospital hotel house kitchen library mall market museum office palace park pharmacy
pool pub restaurant school shop stadium station store studio supermarket temple theater tower university
warehouse workshop zoo
"""
PLACES = tuple(_PLACES.split())

# Each is countable, can be handed over, and takes "a".
_OBJECTS = """
bag ball basket bell blanket book bottle bowl box bracelet brush bucket cake camera candle candy cap card
chain chair coat coin computer cup doll dress drink drum file flag flower fork gift guitar hammer hat helmet
jacket key knife lamp laptop letter magazine map mask medal mirror necklace newspaper notebook package paper
pen pencil phone photo picture pillow plate present ring rope scarf shirt snack stick suit ticket tool toy
vase violin wallet watch
"""
OBJECTS = tuple(_OBJECTS.split())

# InductionDataset's names in text: {first} {last} is named in full, and comes back by the first name alone;
# {between} is for further sentences.
INDUCTION_WORDINGS = (
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
