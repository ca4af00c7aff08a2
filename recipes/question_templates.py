"""Short spoken requests for the embedded model, made from templates.

The text corpora hold prose and booking requests; a newcomer's first words are neither.
"""

from __future__ import annotations

import itertools

COUNTRIES = (
    "Germany Italy Spain Portugal Japan China India Canada Mexico Brazil Argentina Egypt Kenya Nigeria Morocco Greece "
    "Turkey Russia Poland Sweden Norway Finland Denmark Ireland Scotland England Austria Switzerland Belgium Hungary "
    "Australia Thailand Vietnam Indonesia Korea Israel Iran Iraq Peru Chile Colombia Cuba Iceland Ukraine France"
).split()
THINGS = (
    "gravity;a black hole;photosynthesis;the moon;the sun;a volcano;an earthquake;the internet;a computer;democracy;"
    "inflation;a poem;a rainbow;lightning;a whale;an elephant;a tiger;a dolphin;a penguin;a butterfly;coffee;tea;bread;"
    "cheese;chocolate;yoga;chess;football;basketball;music;jazz;a piano;a guitar;electricity;a battery;oxygen;water;"
    "gold;the brain;the heart;a virus;a vaccine;an atom;a molecule;evolution;the ocean;a desert;a glacier;a planet;"
    "a galaxy;the Roman Empire;the Renaissance;an algorithm;machine learning;a robot;a bicycle;an airplane;a train"
).split(";")
ACTIVITIES = (
    "bake bread;make pancakes;learn a language;sleep better;save money;plant a tree;write a letter;tie a tie;"
    "cook rice;boil an egg;play the guitar;run faster;lose weight;study for an exam;fix a bicycle;train a dog;"
    "grow tomatoes;clean a window;stay healthy;make new friends;give a speech;read more books;draw a cat;make tea"
).split(";")
TOPICS = (
    "the sea;winter;a small dog;my grandmother;friendship;the stars;rain;a lost key;an old house;a brave knight;"
    "autumn leaves;a busy city;the mountains;a talking cat;a long journey;spring flowers;a quiet night;dragons"
).split(";")
PEOPLE = (
    "Albert Einstein;Isaac Newton;Marie Curie;Charles Darwin;Leonardo da Vinci;Napoleon;Abraham Lincoln;"
    "George Washington;Shakespeare;Mozart;Beethoven;Cleopatra;Julius Caesar;Gandhi;Nelson Mandela;Galileo;Plato"
).split(";")
NUMBERS = ("one two three four five six seven eight nine ten eleven twelve fifteen twenty thirty fifty hundred").split()
TEMPLATES: dict[str, tuple[str, ...]] = {
    "country": (
        "What is the capital of {}?",
        "Tell me about {}.",
        "What language do people speak in {}?",
        "What food is {} known for?",
        "Where is {}?",
        "What should I see in {}?",
    ),
    "thing": (
        "What is {}?",
        "Tell me about {}.",
        "Can you explain {}?",
        "How does {} work?",
        "Why is {} important?",
        "Give me a fact about {}.",
    ),
    "activity": (
        "How do I {}?",
        "Can you help me {}?",
        "What do I need to {}?",
        "Give me some tips to {}.",
        "I want to {}.",
    ),
    "topic": (
        "Write a poem about {}.",
        "Tell me a story about {}.",
        "Write a short song about {}.",
        "Describe {}.",
    ),
    "person": ("Who was {}?", "What did {} do?", "Tell me about {}.", "When was {} born?"),
}
SMALL_TALK = (
    "Hello.;Hello there.;Hi.;Good morning.;Good evening.;How are you?;How are you today?;What is your name?;"
    "Who are you?;What can you do?;Thank you.;Thanks a lot.;Yes.;No.;Yes please.;No thank you.;Stop.;Okay.;Go on.;"
    "Please continue.;Say that again.;I do not understand.;Can you repeat that?;That is great.;Tell me more.;"
    "Why?;How?;When?;Where?;Really?;Maybe.;Goodbye.;See you later.;Good night.;I am tired.;I am happy.;I feel sad.;"
    "Tell me a joke.;Sing me a song.;What time is it?;What day is it today?;Is it going to rain?;Help me.;"
    "How old are you?;Where are you from?;What do you think?;Are you sure?;You are right.;That is wrong.;"
    "Which is bigger, the sun or the moon?;How far away is the moon?;How many days are in a week?;"
    "How many months are in a year?;What are the colors of the rainbow?;What do cows eat?;How many legs has a cat?;"
    "What is the opposite of hot?;What is the largest animal in the world?;What is the tallest mountain?;"
    "Name three fruits.;Name four animals.;Name two planets.;List five colors.;Count to ten.;Spell the word apple."
).split(";")
HELD_OUT = frozenset(
    (
        "What is the capital of France?",
        "Tell me about elephants.",
        "How do I make tea?",
        "What is photosynthesis?",
        "Write a poem about winter.",
        "Who was Albert Einstein?",
        "Name three fruits.",
        "How many days are in a week?",
        "What is the largest animal in the world?",
        "Give me some tips to sleep better.",
    )
)
"""The ten spoken questions of the demonstration: never trained on."""


def requests() -> list[str]:
    """Every request that the templates make, held-out ones left out."""
    fillers = {
        "country": COUNTRIES,
        "thing": THINGS,
        "activity": ACTIVITIES,
        "topic": TOPICS,
        "person": PEOPLE,
    }
    made = [
        template.format(filler)
        for kind, templates in TEMPLATES.items()
        for template, filler in itertools.product(templates, fillers[kind])
    ]
    sums = [f"What is {a} plus {b}?" for a, b in itertools.product(NUMBERS, NUMBERS)]
    products = [f"How much is {a} times {b}?" for a, b in itertools.product(NUMBERS[:12], NUMBERS[:12])]
    return [text for text in [*made, *SMALL_TALK, *sums, *products] if text not in HELD_OUT]
