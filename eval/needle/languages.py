"""What is written in each language: the needle, the question, and the sentences of the built-in haystack."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """The words of one language."""

    name: str
    title: str
    before: str
    """Stands before the haystack."""
    needle: str
    """One sentence with {key} and {value}, and the space that parts it from the next one."""
    after: str
    """Stands after the haystack: asks for the value of {key}."""
    start: str
    """Begins the answer, so that a model that only completes text gives it, and no other talks around it."""
    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]
    key: str
    """An {adjective} and a {noun}."""
    noise: str
    """A sentence of the built-in haystack with {when}, {who}, {does} and {where}; none has a digit or a key."""
    when: tuple[str, ...]
    who: tuple[str, ...]
    does: tuple[str, ...]
    where: tuple[str, ...]

    def hidden(self, key: str, value: str) -> str:
        """The needle as it stands in the haystack."""
        return self.needle.format(key=key, value=value)

    @property
    def keys(self) -> list[str]:
        """All keys that there are."""
        return [self.key.format(adjective=one, noun=other) for one in self.adjectives for other in self.nouns]


ENGLISH = Language(
    name="en",
    title="English",
    before="A special magic number is hidden in the text below. Read all of it, then answer the question after it.\n\n",
    needle="One of the special magic numbers for {key} is: {value}. ",
    after="\n\nQuestion: What is the special magic number for {key} that the text mentions?\n",
    start="Answer: The special magic number for {key} is",
    adjectives=(
        "amber", "crimson", "silver", "hollow", "northern", "velvet", "distant", "crystal", "rusty", "emerald",
        "ivory", "golden", "frozen", "painted", "crooked", "scarlet",
    ),
    nouns=(
        "falcon", "compass", "violin", "glacier", "anchor", "castle", "meteor", "saddle", "walnut", "trumpet",
        "pyramid", "tulip", "cobra", "hammer", "planet", "sparrow",
    ),
    key="{adjective} {noun}",
    noise="{when}, {who} {does} {where}. ",
    when=(
        "In the early morning", "Before the bells ring", "On a quiet afternoon", "After the long rain",
        "When the fog lifts", "At the end of the week", "During the harvest", "Under a pale moon",
        "On the first warm day", "Late in the evening", "While the kettle boils", "Between two storms",
    ),
    who=(
        "the baker", "an old ferryman", "the schoolteacher", "a young gardener", "the lighthouse keeper",
        "a travelling clockmaker", "the postman", "a shepherd", "the librarian", "a carpenter", "the fishmonger",
        "a weaver",
    ),
    does=(
        "sweeps the wooden floor", "counts baskets of apples", "mends a torn curtain", "reads an old almanac",
        "sharpens a dull knife", "waters the rows of beans", "hums a slow tune", "writes a letter home",
        "waits for the ferry", "polishes a brass lamp", "feeds the grey geese", "folds clean linen",
    ),
    where=(
        "beside the mill", "at the edge of the village", "near the stone bridge", "behind the market hall",
        "in the small courtyard", "under the chestnut tree", "along the canal", "by the kitchen window",
        "on the narrow pier", "at the foot of the hill", "in front of the chapel", "next to the orchard wall",
    ),
)  # fmt: skip

CHINESE = Language(
    name="zh",
    title="Chinese",
    before="下面的文字里藏着一个特殊的魔法数字。请通读全文，然后回答文后的问题。\n\n",
    needle="{key}的一个特殊魔法数字是：{value}。",
    after="\n\n问题：文中提到的{key}的特殊魔法数字是多少？\n",
    start="回答：{key}的特殊魔法数字是",
    adjectives=(
        "琥珀", "绯红", "白银", "空心", "北方", "天鹅绒", "遥远", "水晶",
        "生锈", "翡翠", "象牙", "黄金", "冰封", "彩绘", "弯曲", "深紫",
    ),
    nouns=(
        "猎鹰", "罗盘", "提琴", "冰川", "船锚", "城堡", "流星",
        "马鞍", "核桃", "喇叭", "宝塔", "郁金香", "眼镜蛇", "铁锤", "行星", "麻雀",
    ),
    key="{adjective}{noun}",
    noise="{when}，{who}{where}{does}。",
    when=(
        "清晨", "钟声响起之前", "一个安静的下午", "久雨之后", "雾散的时候", "周末", "收获的季节",
        "淡淡的月光下", "天气刚暖的那天", "傍晚", "水快烧开时", "两场暴雨之间",
    ),
    who=(
        "面包师", "老船夫", "教书先生", "年轻的园丁", "守灯塔的人", "云游的钟表匠", "邮差", "牧羊人",
        "图书管理员", "木匠", "鱼贩", "织布的姑娘",
    ),
    does=(
        "扫着木地板", "数着一筐筐苹果", "缝补破了的窗帘", "读一本旧历书", "磨一把钝刀", "给豆苗浇水",
        "哼着慢悠悠的曲子", "写信回家", "等着渡船", "擦一盏铜灯", "喂几只灰鹅", "叠洗净的床单",
    ),
    where=(
        "在磨坊旁边", "在村口", "在石桥附近", "在集市后面", "在小院子里", "在栗子树下", "沿着运河", "在厨房窗边",
        "在窄窄的码头上", "在山脚下", "在祠堂前面", "在果园墙边",
    ),
)  # fmt: skip

LANGUAGES = {language.name: language for language in (ENGLISH, CHINESE)}
