"""The values that facts of the sandbox are drawn from: lists that every town shares, so that no value gives its town away."""


def _split(text: str, mark: str = " ") -> list[str]:
    """The words (or the parts between marks) of a text."""
    return text.split(mark)


TRADES = _split(
    "baker chemist glassblower mapmaker botanist violinist roofer clockmaker diver weaver potter surgeon printer tailor gardener blacksmith "
    "carpenter beekeeper teacher lawyer sailor painter miller judge pilot dentist plumber brewer tanner jeweller librarian locksmith"
)
STREETS = _split(
    "Mirror Anchor Copper Barley Chapel Falcon Ginger Hazel Ivory Juniper Kestrel Ladder Marble Nettle Orchard Pepper Quarry Rabbit Saddle Timber "
    "Velvet Walnut Willow Bishop Candle Dragon Feather Granite Harvest Island Jasper Lemon"
)
SUBJECTS = _split(
    "maps soap kites cheese lamps boats songs masks bread shoes clocks poems roses wool ropes nets swords coins bells tiles gloves pears "
    "spoons drums wheels stamps chairs dolls wine salt ink honey"
)
CLUBS = _split(
    "chess rowing archery fencing hiking knitting skating sailing cycling singing cooking climbing reading swimming boxing diving juggling "
    "riding running fishing gliding bowling wrestling dancing drawing carving curling hunting birdwatching baking pottery whistling"
)
PETS = _split("cat dog goat parrot tortoise rabbit pony goose")
NOUNS = _split("Garden River Lantern Harbor Winter Compass Tower Forest Island Bridge Window Storm")
FESTIVALS = _split("lanterns apples kites drums candles snow eels masks boats roses bells geese")
DISHES = _split(
    "eel pie,plum soup,fig bread,leek stew,duck rice,nut cake,crab salad,pea porridge,goat curry,rye pudding,trout jelly,beet dumplings",
    ",",
)
PLACES = _split("Quillmere Brackfen Coldhythe Dunmarsh Elderby Thornwick Foxholm Ivystead Larkspire Wrenfold")
