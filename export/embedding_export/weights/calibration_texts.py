"""Texts to calibrate on: short and long, many languages and scripts, code and data, all written for this.

What is wanted is that everything occurs that makes activations large or unusual, not that it is much.
"""

TEXTS = (
    "Which river flows through the largest number of countries?",
    "how to stop a tap from dripping",
    "The committee postponed its decision until the auditors had read every page of the report.",
    "Two children are building a tower of wooden blocks beside the window.",
    "A mechanic explains why the engine of an old lorry will not start in cold weather.",
    "wireless headphones, black, 40 h battery, foldable, with carrying case",
    "NOTICE: THE LIFT IS OUT OF ORDER. PLEASE USE THE STAIRS AT THE REAR OF THE BUILDING.",
    "I ordered the blue one on 3 March 2024, but order no. 48-1177-B arrived green and too small :(",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen. It takes place in the "
    "chloroplasts of green plants, where pigments absorb mostly red and blue light. The first stage splits "
    "water and stores energy in small molecules; the second uses that energy to bind carbon. Nearly all "
    "food chains on land and in the sea begin with this process, and the oxygen that animals breathe is "
    "its by-product. Temperature, the supply of water and the strength of the light limit its speed.",
    "The lease runs for twenty-four months from the first day of May. The tenant pays the rent in advance, "
    "not later than the third working day of each month, and bears the cost of heating, water and waste. "
    "Either party may end the agreement with three months' notice in writing. Damage beyond ordinary wear "
    "is repaired at the tenant's expense. Pets are allowed with the owner's consent, which may not be "
    "refused without reason.",
    "Interest rates rose again yesterday; shares in banks gained 2.4 %, builders lost 3.1 %.",
    "Symptoms include fever, a dry cough and loss of smell; most patients recover within ten days.",
    "Who wrote the first novel that was printed in instalments?",
    "She laughed so loudly that the whole carriage turned round.",
    "Wie lange muss ein hartes Ei kochen, wenn man es direkt aus dem Kühlschrank nimmt?",
    "Die Feuerwehr rückte gegen Mitternacht aus, weil ein Schuppen am Rand des Dorfes brannte.",
    "Notre voisine cultive des tomates anciennes sur son balcon au quatrième étage.",
    "Quelles sont les conditions pour demander un remboursement après l'annulation d'un vol ?",
    "El puente fue cerrado al tráfico durante tres semanas para reparar los pilares dañados.",
    "¿Dónde puedo renovar mi pasaporte sin cita previa?",
    "A padaria da esquina abre às seis e vende pão quente até ao meio-dia.",
    "Il museo conserva una collezione di strumenti musicali del Settecento.",
    "De fietser stak de straat over zonder naar links te kijken.",
    "Wczoraj wieczorem zgubiłem klucze gdzieś między dworcem a domem.",
    "Kolik stojí jízdenka do centra a kde si ji mohu koupit?",
    "A hajó késve indult, mert köd ült a folyón.",
    "Tåget till kusten går varje timme fram till midnatt.",
    "Kirjasto on suljettu maanantaisin ja juhlapyhinä.",
    "Вчера в нашем городе открылась выставка старинных карт.",
    "Як приготувати борщ без буряка?",
    "Το πλοίο για το νησί φεύγει κάθε πρωί στις επτά και μισή.",
    "Bu akşam misafirler gelecek, bu yüzden erkenden alışverişe çıktım.",
    "متى يفتح المتحف أبوابه أيام العطل؟",
    "ילדים משחקים כדורגל בחצר בית הספר.",
    "قیمت بلیت قطار نسبت به سال گذشته دو برابر شده است.",
    "बारिश के कारण आज का मैच रद्द कर दिया गया।",
    "নদীর ধারে একটি পুরোনো মন্দির আছে।",
    "மழை பெய்ததால் சந்தை மூடப்பட்டது.",
    "ร้านอาหารนี้เปิดถึงเที่ยงคืนทุกวัน",
    "Quán cà phê nhỏ ở góc phố luôn đông khách vào buổi sáng.",
    "Anak-anak belajar menanam padi di sawah milik kakek mereka.",
    "Soko hufunguliwa kila siku asubuhi na mapema.",
    "这家餐厅的服务很好,但是等位时间太长了。",
    "科学家在深海热泉附近发现了一种新的细菌。",
    "請問從車站到飯店要走多久?",
    "この川は春になると雪解け水で増水し、橋が通れなくなることがある。",
    "プログラムを実行すると、ファイルが見つからないというエラーが出る。",
    "駅前に新しい本屋ができたので、帰りに寄ってみた。",
    "도서관에서 빌린 책을 내일까지 반납해야 한다.",
    "저희 가게는 매주 월요일에 쉽니다.",
    "def area(width: float, height: float) -> float:\n    if width < 0 or height < 0:\n"
    '        raise ValueError("negative side")\n    return width * height\n',
    "for (const item of basket) {\n  total += item.price * item.count; // in cents\n}\n",
    "SELECT city, AVG(rent) FROM flats WHERE rooms >= 2 GROUP BY city ORDER BY 2 DESC LIMIT 10;",
    '{"id": 7301, "name": "kettle", "tags": ["kitchen", "electric"], "price": 34.9, "in_stock": true}',
    "struct node { int key; struct node *left, *right; };\nint depth(struct node *n) { return n ? 1 : 0; }",
    "#!/bin/sh\nset -eu\ntar -czf backup.tgz --exclude='*.tmp' \"$HOME/notes\" && rm -rf /tmp/stage\n",
    "https://example.org/articles/2023/11/how-bridges-stand?page=2#comments",
    "f(x) = 3x² − 2x + 1, f′(x) = 6x − 2; minimum at x = 1/3",
    "| year | rain (mm) |\n|---|---|\n| 2019 | 712 |\n| 2020 | 655 |",
    "0 1 1 2 3 5 8 13 21 34 55 89 144 233 377 610 987",
    "Best. Holiday. Ever!!! 🏖️🌊 can't believe we're already back 😭",
    "red",
    "?",
)
