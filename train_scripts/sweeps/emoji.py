"""Makes a folder of emoji, for ``--data emoji=FOLDER`` of a sweep: 8 categories, 64 x 64 pixels on white.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0
    for s in google twitter; do mkdir $s; tar xzf emoji-datasource-$s-16.0.0.tgz -C $s --strip-components 1; done
    python train_scripts/sweeps/emoji.py google twitter emoji

Each emoji of the training split is drawn in one of both styles, and each of the validation split in both.
"""

import json
import random
import sys
from collections import defaultdict
from pathlib import Path

from PIL import Image

TRAIN, VAL = 50, 80
# Those with fewer than TRAIN + VAL emoji are left out.
LEFT_OUT = ('Activities', 'Component')


def save(folder: Path, image: str, dest: Path) -> None:
    icon = Image.open(folder / 'img' / folder.name / '64' / image).convert('RGBA')
    page = Image.new('RGBA', icon.size, 'white')
    dest.parent.mkdir(parents=True, exist_ok=True)
    Image.alpha_composite(page, icon).convert('RGB').save(dest)


def main(google: Path, twitter: Path, dest: Path) -> None:
    categories = defaultdict(list)
    for emoji in json.loads((google / 'emoji.json').read_text()):
        if emoji['category'] not in LEFT_OUT and emoji['has_img_google'] and emoji['has_img_twitter']:
            categories[emoji['category'].split()[0].lower()].append(emoji['image'])
    for name, images in sorted(categories.items()):
        random.Random(0).shuffle(images)
        for k, image in enumerate(images[: TRAIN + VAL]):
            styles = (google, twitter) if k >= TRAIN else ((google, twitter)[k % 2],)
            for folder in styles:
                save(folder, image, dest / ('val' if k >= TRAIN else 'train') / name / f'{folder.name}-{image}')


if __name__ == '__main__':
    main(*map(Path, sys.argv[1:4]))
