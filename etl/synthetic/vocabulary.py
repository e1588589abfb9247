"""Words of the synthetic catalogue. Topics differ enough for a text encoder to separate them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """A text topic with its nouns and phrases."""

    name: str
    kinds: tuple[str, ...]  # four nouns
    words: tuple[str, ...]  # six phrases


def _topic(name: str, kinds: str, words: str) -> Topic:
    return Topic(name, tuple(kinds.split(", ")), tuple(words.split(", ")))


TOPICS = (
    _topic(
        "fishing",
        "fishing reel, bait lure, landing net, fly rod",
        "trout streams, bass lakes, salt water, casting, deep sea, tackle boxes",
    ),
    _topic(
        "coffee making",
        "espresso machine, bean grinder, milk frother, pour-over dripper",
        "fresh roast, morning brew, barista drinks, cappuccino, filters, aroma",
    ),
    _topic(
        "guitar playing",
        "guitar strings, electric amplifier, effects pedal, capo",
        "rock solos, tuning, acoustic sound, chords, stage shows, practice",
    ),
    _topic(
        "baby care",
        "diaper pack, pacifier, stroller, crib blanket",
        "newborns, nursery, gentle skin, nap time, toddlers, feeding",
    ),
    _topic(
        "astronomy",
        "telescope, star chart, eyepiece lens, tripod mount",
        "night sky, planets, moon craters, galaxies, dark sites, nebulae",
    ),
    _topic(
        "gardening",
        "pruning shears, seed packet, watering can, compost bin",
        "tomato beds, roses, soil, raised beds, lawn edges, greenhouse",
    ),
    _topic(
        "computer networking",
        "wifi router, ethernet cable, network switch, modem",
        "fast downloads, home office, signal range, gigabit, streaming, firewall",
    ),
    _topic(
        "oil painting",
        "paint brush set, stretched canvas, easel, pigment tube",
        "landscapes, portraits, studio, color mixing, glazing, art class",
    ),
    _topic(
        "dog training",
        "dog leash, chew toy, training clicker, kennel bed",
        "puppies, obedience, walks, treats, barking, fetch games",
    ),
    _topic(
        "bicycle repair",
        "bike chain, tire pump, pedal set, brake pad",
        "mountain trails, road cycling, flat tires, gears, commuting, spokes",
    ),
    _topic(
        "baking",
        "cake pan, rolling pin, stand mixer, cookie cutter",
        "bread dough, frosting, pastry, oven heat, flour, birthday cakes",
    ),
    _topic(
        "swimming",
        "swim goggles, kickboard, swimsuit, nose clip",
        "pool laps, racing, open water, chlorine, diving, triathlon",
    ),
    _topic(
        "woodworking",
        "table saw blade, wood chisel, clamp, sanding block",
        "oak boards, joinery, furniture, workshop, dovetails, varnish",
    ),
    _topic(
        "chess",
        "chess board, chess clock, opening book, king and queen set",
        "tournaments, endgames, strategy, checkmate, clubs, grandmasters",
    ),
    _topic(
        "hair styling",
        "hair dryer, curling iron, shampoo bottle, comb set",
        "salon looks, curls, shine, frizz, blow drying, color care",
    ),
    _topic(
        "first aid",
        "bandage roll, thermometer, antiseptic wipe, splint",
        "wounds, fever, emergencies, sprains, sterile care, clinics",
    ),
)

QUALITIES = (
    "compact",
    "durable",
    "lightweight",
    "premium",
    "classic",
    "adjustable",
    "portable",
    "professional",
    "affordable",
    "reliable",
)

MATERIALS = ("steel", "cotton", "bamboo", "silicone", "aluminum", "plastic", "leather", "ceramic")
