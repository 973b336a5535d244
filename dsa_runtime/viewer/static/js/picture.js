// Picture: a canvas with the world's own pixels, shown as large as fits, at the aspect that the world asks for.

const WASTE = 0.86; // whole device pixels if that keeps so much of the size, else the size

export class Picture {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext('2d', { alpha: false });
    this.image = null;
    this.shown = null;
  }

  draw(rgb, height, width) {
    if (!this.image || this.image.height !== height || this.image.width !== width) {
      this.canvas.height = height;
      this.canvas.width = width;
      this.image = this.context.createImageData(width, height);
      this.words = new Uint32Array(this.image.data.buffer); // little-endian, as every browser's machine is: ABGR
    }
    const words = this.words;
    for (let pixel = 0, byte = 0; pixel < words.length; pixel++, byte += 3) {
      words[pixel] = 0xff000000 | (rgb[byte + 2] << 16) | (rgb[byte + 1] << 8) | rgb[byte];
    }
    this.context.putImageData(this.image, 0, 0);
    this.shown = rgb;
  }

  // Into a box of CSS pixels. aspect: width to height.
  fit(boxWidth, boxHeight, aspect, height, width) {
    const ratio = window.devicePixelRatio || 1;
    const tall = Math.min(boxHeight, boxWidth / aspect);
    // Whole multiples both ways, where the aspect has them: 64x64 at 4:3 is 256x192, 512x384, 768x576, ...
    let crisp = 0;
    for (let times = 1; (times * height) / ratio <= tall + 0.01; times++) {
      const across = (times * height * aspect) / width;
      if (Math.abs(across - Math.round(across)) < 1e-6) crisp = times;
    }
    const size = (crisp * height) / ratio >= WASTE * tall ? (crisp * height) / ratio : tall;
    this.canvas.style.height = `${size}px`;
    this.canvas.style.width = `${size * aspect}px`;
  }
}

// How far two pictures are apart: root mean square, in grey levels of 255.
export function distance(first, second) {
  let sum = 0;
  for (let i = 0; i < first.length; i++) sum += (first[i] - second[i]) ** 2;
  return Math.sqrt(sum / first.length);
}
