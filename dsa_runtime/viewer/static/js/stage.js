// Stage: one picture, or two side by side.

import { Picture } from './picture.js';

export class Stage {
  constructor(root, world) {
    this.world = world;
    this.root = root;
    this.lanes = [...root.querySelectorAll('.lane')];
    this.pictures = this.lanes.map((lane) => new Picture(lane.querySelector('canvas')));
    this.count = 1;
    this.size = [world.height, world.width];
    document.documentElement.style.setProperty('--aspect', world.aspect[0] / world.aspect[1]);
    new ResizeObserver(() => this.fit()).observe(root);
    this.fit();
  }

  split(count, settings) {
    this.count = count;
    this.root.dataset.lanes = document.body.dataset.lanes = count;
    this.lanes[1].hidden = count < 2;
    this.lanes.forEach((lane, index) => { lane.querySelector('.how').textContent = settings[index] ?? ''; });
    this.fit();
  }

  caption(words) {
    if (this.count < 2) return;
    this.lanes.forEach((lane, index) => { lane.querySelector('.what').textContent = words[index] ?? ''; });
  }

  show(pictures, height, width) {
    if (height !== this.size[0] || width !== this.size[1]) {
      this.size = [height, width];
      this.fit();
    }
    pictures.slice(0, this.lanes.length).forEach((rgb, lane) => this.pictures[lane].draw(rgb, height, width));
  }

  smooth(on) {
    this.root.classList.toggle('smooth', on);
  }

  fit() {
    const style = getComputedStyle(this.root);
    const gap = parseFloat(style.columnGap) || 0;
    const beside = style.flexDirection === 'row' ? this.count : 1, above = style.flexDirection === 'row' ? 1 : this.count;
    const caption = this.count > 1 ? this.lanes[0].querySelector('figcaption').offsetHeight : 0;
    const width = (this.root.clientWidth - gap * (beside - 1)) / beside;
    const height = (this.root.clientHeight - gap * (above - 1)) / above - caption;
    const [tall, wide] = this.size;
    // What is published may be of any size; a world's own pictures have its aspect.
    const aspect = tall === this.world.height && wide === this.world.width ? this.world.aspect[0] / this.world.aspect[1] : wide / tall;
    for (const picture of this.pictures) picture.fit(width, height, aspect, tall, wide);
  }
}
