"""Ordinary texts that calibration does not use, to judge a composition by; all written for this purpose."""

import itertools
from collections.abc import Iterator, Mapping

TEXTS = (
    "When does the last tram leave the harbour on Sundays?",
    "cheap hotel near the botanical garden with parking",
    "A woman is repairing the chain of her bicycle at the side of the road.",
    "The museum lends its oldest violin to a young player every second year.",
    "Bees find their way back to the hive by the position of the sun and by landmarks that they remember.",
    "symptoms of iron deficiency in adults",
    "The contract ends automatically unless one of the parties extends it in writing three months before.",
    "My laptop shuts down whenever I plug in the second screen. What can I do?",
    "A tsunami is a series of long waves that a sudden movement of the sea floor sets off. In deep water "
    "they are hardly a metre high and as fast as an aeroplane; near the coast they slow down and rise. The "
    "first sign is often that the sea draws back. Warning systems compare earthquakes with the pressure at "
    "buoys, but where the source is close, people must leave for high ground without waiting for anybody.",
    "Soak the lentils overnight, fry onions and cumin in oil, add both to a litre of stock and let it simmer "
    "for forty minutes. Season with lemon juice and salt before serving.",
    "The parliament rejected the budget by four votes; the government will present a new one in autumn.",
    "Great phone, terrible battery. Returned it after two days and got my money back without any trouble.",
    "In 1876 the town had a single well, two inns and a station where the night train did not stop.",
    "The enzyme splits the sugar into two halves, which the cell then burns for energy.",
    "Interest rates rose again this quarter, and fewer families could afford to buy a house.",
    "He scored twice in the first half, and the visitors never recovered.",
    "Wie beantrage ich einen neuen Personalausweis, wenn der alte verloren ist?",
    "Der Fluss trat nach drei Tagen Regen über die Ufer und setzte mehrere Keller unter Wasser.",
    "La boulangerie du village ferme ses portes après quatre-vingts ans.",
    "Comment remplacer le joint d'un robinet qui fuit ?",
    "El ayuntamiento plantará mil árboles en los barrios con menos sombra.",
    "¿Qué documentos necesito para matricular un coche de segunda mano?",
    "Os pescadores queixam-se de que a água está mais quente do que antigamente.",
    "Il treno per Bologna è in ritardo di venti minuti a causa di un guasto.",
    "De bibliotheek leent sinds kort ook gereedschap en naaimachines uit.",
    "Kütüphane hafta sonları saat onda açılır ve akşam altıda kapanır.",
    "Pociąg do Gdańska odjeżdża z peronu trzeciego za dziesięć minut.",
    "Учёные нашли в пещере рисунки, которым больше двадцати тысяч лет.",
    "Как правильно пересадить комнатное растение весной?",
    "يفتح المتحف أبوابه مجانا في أول يوم جمعة من كل شهر.",
    "गाँव के स्कूल में इस साल पहली बार कंप्यूटर की कक्षा शुरू हुई।",
    "বৃষ্টির কারণে আজকের খেলা আগামীকাল অনুষ্ঠিত হবে।",
    "รถไฟขบวนแรกออกจากสถานีเวลาหกโมงเช้า",
    "Thư viện thành phố vừa mở thêm một phòng đọc cho trẻ em.",
    "研究人员发现,这种植物在夜间吸收的水分比白天多。",
    "请问最近的药店在哪里?",
    "新しい橋が完成すれば、島まで車で二十分で行けるようになる。",
    "パスワードを忘れた場合の再設定方法を教えてください。",
    "이번 주말에는 전국적으로 비가 내릴 것으로 보입니다.",
    "def median(values):\n    ordered = sorted(values)\n    return ordered[len(ordered) // 2]\n",
    "UPDATE orders SET status = 'sent' WHERE paid = TRUE AND packed_at IS NOT NULL;",
    "ERROR 2031-05-07 11:42:09 worker-3: connection to 10.0.4.17:5432 refused, retrying (attempt 3 of 5)",
)


def prompted(prompts: Mapping[str, str]) -> Iterator[tuple[str | None, str]]:
    """Each text with the name of its prompt, all of `prompts` in turn; the name is None if there are no
    prompts."""
    return zip(itertools.cycle(list(prompts) or [None]), TEXTS, strict=False)
