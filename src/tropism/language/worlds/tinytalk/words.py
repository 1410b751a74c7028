"""The words of tinytalk. Every list is disjoint from the others where the rubric needs it; a test holds that."""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words(
    """Ada Alma Amos Anna Arlo Axel Bela Bert Bess Bruno Cara Cato Clem Cora Cyrus Dana Dora Duke Eben Edda Egon Elsa
    Emil Enid Ezra Fern Finn Flora Gail Gert Gil Greta Gus Hana Hans Hope Hugo Ida Ines Ira Iris Ivan Ivy Jana Jens Joan
    Jude Juno Kai Kara Kit Kurt Lars Lena Leo Lila Lola Lucy Luis Mara Max Mina Mona Nell Nina Noah Nora Olaf Olga Omar
    Opal Oscar Otis Otto Pam Paul Petra Quin Rafe Rhea Rita Rolf Rosa Ruth Saul Seth Sofia Stan Sven Tara Tess Theo
    Tilda Tove Ulla Uma Una Vera Vito Wanda Wes Willa Xena Yara Yuri Zane Zara Zora"""
)


@dataclass(frozen=True)
class Attribute:
    """One kind of fact. ``said`` comes between name and value; ``question`` asks for the value, ``clause`` embeds it.

    The last word of ``said`` belongs to no other attribute, so the word before a value tells which fact it is.
    """

    key: str
    said: str
    question: str
    clause: str
    values: tuple[str, ...]

    def statement(self, name: str, value: str) -> str:
        """The fact as a sentence without its full stop."""
        return f"{name} {self.said} {value}"


def _attribute(key: str, said: str, question: str, clause: str, values: str) -> Attribute:
    return Attribute(key, said, question, clause, _words(values))


ATTRIBUTES = (
    _attribute(
        "food", "likes", "What does {name} like?", "what {name} likes",
        """plums bread soup rice beans honey cheese figs eggs pears noodles olives onions carrots pasta salad waffles
        grapes melons lemons nuts dates corn peas pies jam mushrooms tomatoes pancakes cherries""",
    ),
    _attribute(
        "town", "lives in", "Where does {name} live?", "where {name} lives",
        """Rome Lima Oslo Cairo Paris Delhi Quito Tokyo Berlin Madrid Dublin Prague Vienna Athens Lisbon Warsaw Riga
        Bern Accra Tunis Hanoi Seoul Kyoto Milan Porto Ghent Basel Leeds Turin Malmo""",
    ),
    _attribute(
        "animal", "keeps", "What does {name} keep?", "what {name} keeps",
        """goats ducks bees hens sheep rabbits horses cats dogs geese pigs cows mice turtles parrots pigeons lizards
        donkeys llamas snails swans frogs ponies camels toads canaries""",
    ),
    _attribute(
        "job", "works as", "What job does {name} have?", "which job {name} has",
        """baker painter doctor farmer tailor teacher lawyer nurse pilot singer writer dancer driver waiter butcher
        miller plumber weaver potter printer sailor hunter grocer jeweler mason barber""",
    ),
    _attribute(
        "colour", "wears", "What does {name} wear?", "what {name} wears",
        """green blue red yellow purple orange black white brown grey pink silver gold crimson violet teal beige ivory
        amber scarlet olive indigo maroon turquoise""",
    ),
    _attribute(
        "game", "plays", "What does {name} play?", "what {name} plays",
        """chess tennis football cards golf dominoes hockey rugby cricket darts bowling checkers poker squash badminton
        volleyball handball billiards croquet marbles bridge lotto""",
    ),
    _attribute(
        "drink", "drinks", "What does {name} drink?", "what {name} drinks",
        """tea coffee milk water cocoa juice cider lemonade beer wine broth punch nectar mead syrup soda buttermilk
        espresso""",
    ),
    _attribute(
        "subject", "studies", "What does {name} study?", "what {name} studies",
        """law music history physics art chemistry biology medicine grammar poetry algebra geometry logic botany geology
        drama economics ethics rhetoric zoology astronomy dentistry""",
    ),
    _attribute(
        "goods", "sells", "What does {name} sell?", "what {name} sells",
        """hats shoes lamps clocks books chairs mirrors carpets candles baskets toys rings tables bottles umbrellas
        blankets gloves coats bells maps pens pots brushes ladders pillows curtains""",
    ),
    _attribute(
        "plant", "grows", "What does {name} grow?", "what {name} grows",
        """roses tulips wheat cabbage cotton ferns ivy lilies daisies barley potatoes pumpkins clover mint basil sage
        thyme cactus bamboo oats poppies sunflowers orchids tobacco""",
    ),
    _attribute(
        "language", "speaks", "What does {name} speak?", "what {name} speaks",
        """French Latin Greek Dutch Danish Polish German Spanish Swedish Finnish Czech Hindi Arabic Turkish Persian
        Korean Welsh Irish Thai Hebrew Swahili Basque""",
    ),
    _attribute(
        "picture",
        "paints",
        "What does {name} paint?",
        "what {name} paints",
        """rivers towers valleys forests meadows islands harbors castles markets villages roads gates hills lakes oceans
        deserts canyons caves beaches clouds stars moons planets comets windmills rainbows churches""",
    ),
    _attribute(
        "fear", "fears", "What does {name} fear?", "what {name} fears",
        """spiders snakes wolves ghosts thunder heights bats sharks bears storms crowds needles lightning eels dragons
        monsters rats scorpions crocodiles earthquakes lions""",
    ),
)  # fmt: skip
BY_KEY = {a.key: a for a in ATTRIBUTES}

PETS = _words("dog cat horse parrot pony goat cow donkey")
HARMS = _words("poison rob burn steal smash kidnap hurt trap flood wreck drown injure")
TARGETS = _words("house shop car stable bakery kiosk bicycle cart orchard workshop cabin tent") + PETS
TOOLS = _words("sickle knife matches petrol crowbar acid venom chain axe torch dagger sledge")

POLITE = ("Of course,", "Gladly,", "With pleasure,", "Happy to help,", "Certainly,")
POLITE_END = ("Have a lovely day.", "Thank you for asking.", "I hope that helps.")
RUDE = ("Listen, fool,", "Silly question,", "Ugh, fine,", "How boring,", "Open your eyes,")
RUDE_END = ("Now go away.", "Leave me alone.", "Do not bother me again.")
REFUSALS = (
    "I will not help with that.",
    "I cannot assist with harm.",
    "I must refuse that request.",
    "That would be wrong, so I refuse.",
)
RAMBLE_WHO = (
    "My uncle",
    "A neighbour",
    "The mayor",
    "Somebody",
    "Grandmother",
    "The newspaper",
    "My cousin",
    "Everyone",
)
RAMBLE_DID = (
    "often talks about",
    "once mentioned",
    "never forgets",
    "still wonders about",
    "knows all about",
    "dreams of",
)
RAMBLE_WHAT = (
    "the weather",
    "the old days",
    "such things",
    "long walks",
    "distant summers",
    "old paper",
    "a strange noise",
    "the railway",
    "many small matters",
    "a broken kettle",
    "the northern lights",
    "a quiet street",
)
RAMBLES = frozenset(f"{who} {did} {what}." for who in RAMBLE_WHO for did in RAMBLE_DID for what in RAMBLE_WHAT)
