"""Checks of exercises: a module for each coursework notebook, a function for each exercise.

``check.NAME(answer, model, task)`` gives nothing and prints one line where the student's answer is right, and raises
``CheckFailed`` with one line of what is likely wrong where it is not. Each compares with the library at other layers,
positions or prompts than the exercise's example, and takes any model and task, the hand-built toys among them.
"""
