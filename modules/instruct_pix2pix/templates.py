"""Instructions to start from: sentences with blanks, each with an example; javascript/ writes them into the prompt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """A sentence whose blanks stand in braces, '{a new object}', and the sentence once filled in."""

    text: str
    example: str


TEMPLATES = (
    Template("Turn the {something in the photo} into {a new object}", "Turn the horse into a dragon"),
    Template("Replace the {object} with {another object}", "Replace the mountains with a city skyline"),
    Template("Add {an object}", "Add fireworks"),
    Template("Add {an object} on {something in the photo}", "Add a hat on the dog"),
    Template("Make it {a place, background or weather}", "Make it a snowy day"),
    Template("Put them in {a scene or background}", "Put them in a sunflower field"),
    Template("Have {her, him or them} {do something}", "Have her ride a motorcycle"),
    Template("Make {her, him or them} look like {an object or person}", "Make him look like a marble statue"),
    Template("Apply {an emotion or something to wear}", "Apply a big smile"),
    Template("Change the style to {an artist or style}", "Change the style to watercolor"),
    Template("Change to {a style} style", "Change to Japanese woodblock print style"),
    Template("Make it look like {a kind of picture}", "Make it look like a pencil sketch"),
    Template("Make it {a season or time of day}", "Make it sunset"),
    Template("Make the {something in the photo} {a color}", "Make the car red"),
    Template("Make the {something in the photo} out of {a material}", "Make the jacket out of leather"),
    Template("What would it look like {in some event}?", "What would it look like in a flood?"),
)
