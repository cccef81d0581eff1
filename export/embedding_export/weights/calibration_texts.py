"""Texts to calibrate on: short and long, many languages and scripts, code and data, all written for this.

They must contain everything that makes activations large or unusual; how much of it does not matter.
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
    "A man is slicing an onion on a wooden board.",
    "Three dogs run along the beach while a woman throws a stick into the waves.",
    "The minister said on Tuesday that talks with the neighbouring country would go on until the autumn.",
    "A plane is taking off from a short runway between two hills.",
    "You should back up your photographs before you install the new version, and I would wait a week anyway.",
    "Somebody is playing the piano in the flat above ours.",
    "Shares of the carmaker fell 3 percent to $41.20 after it cut its forecast for the third quarter.",
    "What is the difference between a virus and a bacterium?",
    "best way to remove rust from cast iron pan",
    "The cat sat in the sink and refused to move.",
    "To bake the bread, mix 500 g of flour with 330 ml of lukewarm water, 10 g of salt and 3 g of dry yeast. "
    "Knead for eight minutes, cover the bowl and leave it in a warm place until the dough has doubled. Fold "
    "it twice, shape a loaf, and let it rest for another hour. Bake at 230 °C for thirty-five minutes on the "
    "lowest shelf, with a cup of water in the oven for the first ten. The loaf is done when it sounds "
    "hollow.",
    "The glacier has lost a third of its length since measurements began in 1884. Meltwater feeds two "
    "lakes, of "
    "which the lower one is dammed by loose rock and may break out. Engineers have dug a channel to keep its "
    "level down; sensors report every ten minutes. Villages downstream hold a drill each June. Hydrologists "
    "expect the flow in summer to peak about 2035 and then to fall, as there will be too little ice left.",
    "Permission to copy this handbook, in whole or in part, is given to schools and libraries, provided "
    "that no "
    "fee is charged and that this notice is kept. It is supplied as it stands: neither the authors nor the "
    "publisher shall be liable for any loss that arises from its use, even if they have been told that "
    "such a "
    "loss is possible. Versions that have been changed must say so plainly and name who changed them.",
    "# Installation\n\nYou need Python 3.10 or newer and about 2 GB of disk space.\n\n1. Make a virtual "
    "environment: `python -m venv env`\n2. Install the package: `env/bin/pip install .[server]`\n3. "
    "Start it: "
    "`env/bin/serve --port 8080 --workers 4`\n\n## Configuration\n\n| option | default | meaning |\n|---|---|"
    "---|\n| `cache_size` | 512 | entries kept in memory |\n| `timeout` | 30 s | after which a request "
    "fails |",
    "The encoder has twelve layers of width 512 with eight heads each. It was trained on pairs of "
    "questions and "
    "answers with a contrastive loss; hard negatives came from an earlier checkpoint. Vectors are "
    "compared by "
    "cosine similarity. On the held-out set recall at ten rises from 0.71 to 0.78, mostly for long "
    "documents, "
    "while the time for a query stays below five milliseconds on one core.",
    "In the second act the heiress learns that the letters were forged by her uncle, who needs the estate to "
    "cover his debts. The storm scene, played before a bare wall, belongs to the finest moments of the "
    "season; "
    "the last duet was taken too fast. Tickets from 18 euros, until 9 December, Mondays excepted.",
    "Hi Tom, thanks for the quick answer! Could we move the meeting to Thursday at 10:30? I still wait "
    "for the "
    "figures from Oslo, and without them there's little to decide. If that doesn't suit you, Friday "
    "after lunch "
    "is fine too. Please bring the signed contract and the spare key. Best wishes, Ingrid",
    "Patients with kidney failure should take half the dose. The tablets are swallowed whole with a glass of "
    "water, at the same time every day. If a dose was missed by more than eight hours, it is left out; "
    "a double "
    "dose must not be taken. Common side effects are headache, nausea and a dry mouth (1 in 10 persons).",
    "Der Zug nach Leipzig hält heute nicht in Naumburg, weil dort ein Signal gestört ist. Reisende werden "
    "gebeten, in Weißenfels auszusteigen und den Ersatzbus zu nehmen, der alle zwanzig Minuten vor dem "
    "Bahnhof abfährt. Fahrkarten behalten ihre Gültigkeit, und Fahrräder können leider nicht "
    "mitgenommen werden.",
    "Le musée ferme ses portes pendant deux mois afin de restaurer la grande verrière. Les œuvres les plus "
    "fragiles seront déposées dans les réserves ; les autres voyageront à Lille et à Nantes. La "
    "réouverture est "
    "prévue pour le printemps, avec une exposition consacrée aux peintres de la lumière.",
    "Une petite fille souffle sur un pissenlit au bord du chemin.",
    "Un chien brun court après une balle rouge dans l'herbe haute.",
    "La recherche montre que marcher une demi-heure par jour réduit nettement le risque de diabète.",
    "El volcán lleva tres días expulsando ceniza, y las autoridades recomiendan no salir sin mascarilla. Las "
    "clases se han suspendido en cuatro municipios, y el aeropuerto permanece cerrado hasta nuevo aviso.",
    "O preço do café subiu pela terceira vez este ano por causa da seca no interior.",
    "Il treno per Bologna parte dal binario sette con venti minuti di ritardo.",
    "Привіт! Чи працює сьогодні бібліотека? — Так, до сьомої вечора.",
    "Добрый день! Подскажите, пожалуйста, как пройти к вокзалу?",
    "Учёные обнаружили на дне озера остатки деревянного моста, построенного более двух тысяч лет назад.",
    "مرحبا، كيف حالك اليوم؟ أبحث عن كتاب جيد لتعلم الطبخ.",
    "أعلن الباحثون عن اكتشاف نوع جديد من الأسماك في أعماق البحر الأحمر.",
    "कृपया मुझे बताइए कि यह बस स्टेशन तक जाती है या नहीं।",
    "今天早上下了一场大雨,街道上到处都是积水,公交车也晚点了。",
    "人工智能可以帮助医生更早地发现疾病,但最后的判断仍然要由人来做。",
    "台灣的夜市以小吃聞名,每到週末總是人山人海。",
    "日本の夏は湿度が高く、夜になっても気温が下がらない日が続く。",
    "母は庭で育てた野菜を使って、毎日ちがう料理を作ってくれる。",
    "会議は午後三時に始まる予定でしたが、部長の到着が遅れたため、四時に変更されました。",
    "このカメラは小さくて軽いのに、暗い場所でもきれいな写真が撮れる。",
    "昨日の試合は延長戦の末、地元のチームが三対二で勝利を収めた。観客は最後まで席を立たなかった。",
    "서울의 겨울은 춥고 건조하지만 눈이 오면 고궁이 아주 아름답습니다.",
    "class Stack:\n    def __init__(self):\n        self._items = []\n\n    def push(self, item):\n        "
    "self._items.append(item)\n\n    def pop(self):\n        if not self._items:\n            raise "
    "IndexError('pop from empty stack')\n        return self._items.pop()\n",
    "const groupBy = (rows, key) => rows.reduce((acc, row) => {\n  (acc[row[key]] ||= []).push(row);\n  "
    "return "
    "acc;\n}, {});\nexport default groupBy;\n",
    'package main\n\nimport "fmt"\n\nfunc main() {\n\tfor i := range 3 {\n\t\tfmt.Printf("%d squared is '
    '%d\\n", i, i*i)\n\t}\n}\n',
    "impl Iterator for Countdown {\n    type Item = u32;\n    fn next(&mut self) -> Option<u32> {\n        "
    "self.0 = self.0.checked_sub(1)?;\n        Some(self.0)\n    }\n}\n",
    'docker run --rm -it -v "$PWD":/data -p 5432:5432 postgres:16 && curl -sSf '
    "http://localhost/health | jq .",
    "INSERT INTO bookings (guest, room, nights) VALUES ('Okafor', 12, 3) ON CONFLICT (room) DO NOTHING;",
    '<ul class="menu">\n  <li><a href="/about">About us</a></li>\n  <li><a href="/cart">Cart (2)</a></li>\n'
    "</ul>\n<style>.menu { display: flex; gap: 1rem }</style>",
    'Traceback (most recent call last):\n  File "job.py", line 88, in <module>\n    main()\nKeyError: '
    "'region'",
    "2024-05-17T08:41:09Z WARN pool exhausted, 64 of 64 connections in use; waiting 250 ms",
    "lemon",
    "ok",
    "...",
    "2026",
    "Tokyo",
    "red",
    "?",
)
