"""Words and sentence patterns of the short texts (`recipes.embedded_texts`), written for this project."""

from __future__ import annotations

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = (
    "first;second;third;fourth;fifth;sixth;seventh;eighth;ninth;tenth;eleventh;twelfth;thirteenth;fourteenth;"
    "fifteenth;sixteenth;seventeenth;eighteenth;nineteenth;twentieth;twenty first;twenty second;twenty third;"
    "twenty fourth;twenty fifth;twenty sixth;twenty seventh;twenty eighth;twenty ninth;thirtieth"
).split(";")
MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
FIRST_NAMES = (
    "Anna Brian Carla David Emma Frank Grace Henry Ian Julia Kevin Laura Mark Nina Oscar Paula Quentin Rachel Simon "
    "Tara Ursula Victor Wendy Xavier Yvonne Zoe Amir Beatrice Chloe Diego Elena Fatima George Hannah Isaac James "
    "Karen Leo Maria Nathan Olivia Peter Rosa Samuel Thomas Vera William Aisha Boris Chen Daniel Eva Felix Gloria"
).split()
LAST_NAMES = (
    "Smith Jones Brown Miller Davis Wilson Taylor Clark Lewis Walker Hall Young King Wright Hill Green Baker Nelson "
    "Carter Turner Parker Collins Morgan Cooper Reed Bailey Bell Kelly Howard Ward Cox Gray Watson Brooks Price "
    "Bennett Wood Barnes Ross Henderson Coleman Jenkins Perry Powell Long Hughes Garcia Lopez Singh Patel Schmidt Novak"
).split()
SPELLED = (
    "apple banana color doctor elephant friend guitar house island jacket kitchen lemon mother necessary orange people "
    "quick restaurant separate tomorrow umbrella village weather yellow zebra because beautiful calendar difficult"
).split()
NAME_SPELLINGS = (
    "My name is {0}, {1}.",
    "It's {0}, {1}.",
    "{0} is spelled {1}.",
    "That's {0}, spelled {1}.",
    "The name is {0}, that is {1}.",
    "{1}, {0}.",
)
WORD_SPELLINGS = ("{0} is spelled {1}.", "You spell {0} {1}.", "{0}, {1}.", "{1} spells {0}.")

LISTS: dict[str, list[str]] = {
    "first": FIRST_NAMES,
    "last": LAST_NAMES,
    "month": MONTHS,
    "weekday": DAYS,
    "ordinal": ORDINALS,
    "city": (
        "London;Paris;Rome;Madrid;Berlin;Vienna;Dublin;Boston;Chicago;Denver;Seattle;Miami;Toronto;Sydney;Tokyo;Delhi;"
        "Cairo;Oslo;Athens;Lisbon;Atlanta;Dallas;Phoenix;Portland;New York;San Francisco;Los Angeles;Hong Kong"
    ).split(";"),
    "room": "kitchen;bedroom;living room;bathroom;hall;office;garage;garden".split(";"),
    "device": "lights;lamp;heating;radio;fan;television;music;coffee machine;alarm".split(";"),
    "item": (
        "milk;bread;eggs;butter;two lemons;some rice;a bag of apples;toilet paper;olive oil;cat food;toothpaste;"
        "a bottle of wine;onions;sugar;batteries;coffee;orange juice;cheese;a birthday card;candles"
    ).split(";"),
    "chore": (
        "call my mother;water the plants;take out the trash;pay the rent;feed the cat;pick up the kids;go to the bank;"
        "buy flowers;take my medicine;book the tickets;walk the dog;send the report;return the library books;"
        "charge my phone;wish Anna a happy birthday;close the windows;defrost the chicken"
    ).split(";"),
    "when": (
        "tonight;tomorrow;tomorrow morning;on Monday;on Friday evening;next week;after lunch;before dinner;in an hour;"
        "at noon;at the weekend;when I get home;later today"
    ).split(";"),
    "genre": (
        "jazz;classical music;rock;piano music;country music;something relaxing;the news;a podcast;the blues"
    ).split(";"),
    "language": "Spanish;French;German;Italian;Japanese;Portuguese;Polish;Dutch;Turkish;Swedish".split(";"),
    "phrase": (
        "thank you;good night;excuse me;where is the station;I am hungry;how much is it;see you soon;I love you;"
        "please;the bill please;happy birthday;cheers"
    ).split(";"),
    "message": (
        "I am on my way;I will be late;see you at seven;happy birthday;call me back;thanks for dinner;I miss you;"
        "the meeting is cancelled;we are out of milk;good luck today"
    ).split(";"),
    "adjective": (
        "happy;cold;fast;big;strong;early;easy;dark;empty;rich;young;clean;loud;brave;soft;heavy;wide;deep;dry;cheap;"
        "new;full;kind;sweet;thin;angry"
    ).split(";"),
    "verb": "go;see;write;swim;eat;take;buy;teach;run;sing;think;bring;fly;drive;speak;sleep;begin;drink".split(";"),
    "noun": "child;mouse;foot;leaf;goose;knife;man;sheep;tooth;box;city;woman;wolf;tomato;person;fish".split(";"),
    "animal": "cow;horse;sheep;duck;lion;frog;owl;dog;pig;rooster;wolf;bee;snake;donkey".split(";"),
    "element": "gold;silver;iron;oxygen;carbon;helium;sodium;copper;lead;hydrogen;zinc;potassium".split(";"),
    "word": (
        "ambiguous;frugal;nostalgia;metaphor;resilient;irony;empathy;candid;obsolete;vivid;reluctant;humble;paradox;"
        "genuine;tedious;eloquent"
    ).split(";"),
    "region": "Europe;Asia;Africa;South America;North America;Australia;the world;Canada;France;India".split(";"),
    "record": "mountain;river;lake;city;island;country;building;desert;forest;airport;bridge".split(";"),
    "holiday": ("Christmas;Easter;Thanksgiving;New Year's Eve;Halloween;Mother's Day;Labor Day;Valentine's Day").split(
        ";"
    ),
    "country": (
        "Germany;Italy;Spain;Japan;China;India;Canada;Mexico;Brazil;Egypt;Kenya;Greece;Turkey;Poland;Sweden;Norway;"
        "Ireland;Austria;Switzerland;Hungary;Thailand;Peru;Chile;Cuba;Iceland;Denmark"
    ).split(";"),
    "dish": (
        "pancakes;tomato soup;an omelette;pizza;fried rice;a fruit salad;apple pie;banana bread;lasagna;pea soup;"
        "mashed potatoes;guacamole;chicken curry"
    ).split(";"),
    "place": "a pharmacy;a bakery;a gas station;a cash machine;a bus stop;a good cafe;a park;a post office".split(";"),
    "feeling": "tired;hungry;bored;sad;nervous;happy;sick;lonely;excited;cold;lost;thirsty;proud;worried".split(";"),
}
EVERYDAY = (
    "Set a timer for {small} minutes.",
    "Wake me up at {time}.",
    "Set an alarm for {time} on {weekday}.",
    "Remind me to {chore} {when}.",
    "Don't let me forget to {chore} {when}.",
    "What's the weather like in {city}?",
    "Will it rain in {city} on {weekday}?",
    "What time is it in {city}?",
    "Play some {genre}.",
    "Turn on the {device} in the {room}.",
    "Turn off the {device} in the {room}, please.",
    "Switch off the {device}.",
    "Add {item} to my shopping list.",
    "Do we still have {item}?",
    "Call {first} {last}.",
    "Call {first} on the phone.",
    "Send a message to {first}, {message}.",
    "Tell {first} that {message}.",
    "How do you say {phrase} in {language}?",
    "Book a table for {small} at {time}.",
    "Find a flight from {city} to {city} on {date}.",
    "When does the next train to {city} leave?",
    "How do I get from {city} to {city}?",
    "Where can I find {place} near here?",
    "What is {round} percent of {number}?",
    "What is {number} minus {small}?",
    "What is {round} divided by five?",
    "What is the square root of {number}?",
    "What is the opposite of {adjective}?",
    "What is another word for {adjective}?",
    "What is the past tense of {verb}?",
    "What is the plural of {noun}?",
    "What sound does a {animal} make?",
    "What is the chemical symbol for {element}?",
    "What does {word} mean?",
    "Use {word} in a sentence.",
    "What is the largest {record} in {region}?",
    "What is the most famous {record} in {region}?",
    "What day of the week is {date}?",
    "How many days until {holiday}?",
    "When is {holiday} this year?",
    "What is the population of {country}?",
    "Who is the president of {country}?",
    "What is the currency of {country}?",
    "Which countries border {country}?",
    "How do you make {dish}?",
    "Give me a recipe for {dish}.",
    "I feel {feeling} today.",
    "I am {feeling}, what should I do?",
    "My friend {first} is {feeling}.",
    "What happened in {year}?",
    "What is on my calendar for {weekday}?",
    "Move my meeting with {first} to {time}.",
    "Tell me a story about {first} and a {animal}.",
    "Write a short poem for {first}.",
    "Read me the next message from {first}.",
    "Turn the volume up to {round} percent.",
)
NUMBERS = (
    "{time}.",
    "It is {time}.",
    "At {time}, please.",
    "Let's meet at {time} on {weekday}.",
    "The train leaves at {time}.",
    "{date}.",
    "On {date}.",
    "{weekday}, {date}.",
    "It was on {date}, {year}.",
    "I was born on {date}, {year}.",
    "{year}.",
    "In {month} {year}.",
    "We moved here in {year}.",
    "{number}.",
    "{number} dollars.",
    "It costs {number} dollars and {round} cents.",
    "That's {round} percent.",
    "The temperature is {small} degrees.",
    "I need {small} of them.",
    "I live at {number} {last} Street.",
    "My number is {telephone}.",
    "{telephone}.",
    "The code is {number}, {number}.",
    "Room {number} on the {ordinal} floor.",
    "He came in {ordinal}, after {first}.",
    "It is {number} miles away.",
    "She is {round} years old.",
    "The score was {small} to {small}.",
    "A quarter of {number}.",
    "From {time} to {time}.",
)
NAMES = (
    "My name is {first}.",
    "I'm {first}.",
    "I am {first} {last}.",
    "This is {first} {last}.",
    "This is {first} speaking.",
    "Hi, I'm {first}, nice to meet you.",
    "{first} {last}.",
    "It's {first}, not {first}.",
    "My friends call me {first}.",
    "I'm calling for {first} {last}.",
    "Have you met {first} {last}?",
    "My sister {first} lives in {city}.",
    "Mister {last} is here.",
    "Please ask for Doctor {last}.",
    "{first} and {first} are coming.",
)
STATEMENTS = (
    "I love this place.;The food was terrible.;The movie was great.;I did not like the book.;My phone is broken.;"
    "I had a wonderful day.;The service was slow.;We had so much fun.;I lost my keys.;I got a new job.;"
    "It is too hot in here.;I cannot sleep.;I have a headache.;My train is late.;The dog ate my lunch.;"
    "I forgot my umbrella.;I passed my exam.;We missed the bus.;The baby is asleep.;My car would not start.;"
    "I am learning to cook.;I want to go home.;It is snowing outside.;Somebody is at the door.;The soup is too salty.;"
    "I have a question.;I need some help.;I changed my mind.;Let me think about it.;I was just kidding.;"
    "That is what I meant.;I will be right back.;It does not matter.;I have never been there.;That sounds good to me."
).split(";")
ANSWERS = (
    "Yes.;No.;Yes, please.;No, thanks.;No thanks.;No, thank you.;Yeah.;Yep.;Nope.;Sure.;Of course.;Okay.;All right.;"
    "Fine.;Good.;Great.;Perfect.;Exactly.;Right.;That's right.;Wrong.;Stop.;Stop it.;Stop that.;Wait.;Wait a minute.;"
    "Hold on.;Go on.;Go ahead.;Continue.;Next.;Back.;Again.;Once more.;Repeat that.;Louder.;Quieter.;Slower, please.;"
    "Faster.;Cancel.;Never mind.;Forget it.;Done.;Start.;Pause.;Help.;Hello.;Hi.;Hey.;Bye.;Goodbye.;Good night.;"
    "Thanks.;Thank you.;Thank you very much.;You're welcome.;Sorry.;Excuse me.;Pardon?;What?;Who?;Why?;Why not?;How?;"
    "Where?;When?;Which one?;Really?;How come?;How so?;Maybe.;Perhaps.;I think so.;I don't think so.;I don't know.;"
    "I'm not sure.;Not really.;Not yet.;Not now.;Later.;Now.;Today.;Tomorrow.;Tonight.;Soon.;Never.;Always.;Sometimes.;"
    "Both.;Neither.;All of them.;None.;The first one.;The second one.;The last one.;This one.;That one.;Me too.;"
    "Absolutely.;Definitely.;No problem.;No way.;Got it.;I see.;I know.;Let's go.;Come on.;One moment.;Say it again.;"
    "Seven thirty.;Half past nine.;Two, please.;Just one.;Red.;Blue.;Green.;Coffee.;Tea, please.;Water.;Left.;Right.;"
    "On.;Off.;Up.;Down.;More.;Less.;Enough.;Quiet.;Shut up.;Be quiet."
).split(";")
