"""Who lives in the miniature world: emoji short names, the words that captions use, and who is
held out.

`emoji` is the short name in the npm package `emoji-datasource`, `word` what captions say.
Held-out characters never enter base training; their `class_word` is a base character's word.
"""

from dataclasses import dataclass

_BASE = """
cat dog fox=fox_face lion=lion_face tiger bear panda=panda_face koala rabbit pig cow horse frog
monkey=monkey_face mouse elephant giraffe=giraffe_face penguin owl duck chicken bird turtle snake
octopus crab fish whale butterfly bee snail dragon=dragon_face unicorn=unicorn_face dinosaur=t-rex
robot=robot_face ghost alien clown=clown_face man woman police=cop chef=cook prince santa ninja
vampire car rocket
"""

# name=emoji:class word
_HELD_OUT = """
blackcat=black_cat:cat poodle=poodle:dog polarbear=polar_bear:bear zebra=zebra_face:horse
parrot=parrot:bird angelfish=tropical_fish:fish sauropod=sauropod:dinosaur wizard=male_mage:man
princess=princess:woman superhero=superhero:woman astronaut=male-astronaut:man taxi=taxi:car
"""

# The larger world (`--world large`): these join the base characters.
_MORE = """
hippopotamus rhinoceros gorilla kangaroo sloth crocodile shark spider zombie fairy elf genie troll
guard=guardsman farmer bus boat train airplane helicopter guitar apple banana pineapple watermelon
mushroom cactus sunflower tree=evergreen_tree house cake hamburger pizza balloon umbrella crown
skull imp ogre=japanese_ogre flamingo eagle wolf rooster peacock beetle ladybug ant
pumpkin=jack_o_lantern snowman baby pilot=male-pilot doctor=female-doctor artist=male-artist
bride=bride_with_veil detective=sleuth_or_spy builder=construction_worker mermaid raccoon hedgehog
kiwi=kiwifruit dolphin seal squid shrimp lobster scorpion camel llama deer goat sheep ox boar
hamster beaver otter skunk badger swan dodo lizard fly worm mosquito mammoth bison moose goose
rose tulip hibiscus palm=palm_tree volcano tent castle=european_castle church factory tractor
ambulance truck bike motorcycle=racing_motorcycle scooter ship canoe ufo=flying_saucer anchor bell
candle camera telephone=phone clock=alarm_clock key hammer axe shield sword=dagger_knife trumpet
violin drum=drum_with_drumsticks saxophone trophy football basketball dart kite sled gift
teddy=teddy_bear lemon cherries strawberry grapes corn carrot broccoli bread cheese=cheese_wedge
egg sushi cookie doughnut candy lollipop teapot mirror door chair bed
"""


@dataclass(frozen=True)
class Character:
    word: str
    emoji: str
    class_word: str = ""  # only for held-out characters

    @property
    def held_out(self) -> bool:
        return bool(self.class_word)


def _parse(text: str) -> list[Character]:
    characters = []
    for entry in text.split():
        entry, _, class_word = entry.partition(":")
        word, _, emoji = entry.partition("=")
        characters.append(Character(word, emoji or word, class_word))
    return characters


def base_characters(world: str = "small") -> list[Character]:
    return _parse(_BASE) + (_parse(_MORE) if world == "large" else [])


def held_out_characters() -> list[Character]:
    return _parse(_HELD_OUT)


def all_characters(world: str = "small") -> list[Character]:
    return base_characters(world) + held_out_characters()
