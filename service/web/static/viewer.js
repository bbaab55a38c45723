// Scrolls through the frames of a series: each a picture by the server, with the segmentation's
// picture over it. A few frames around the one shown are fetched ahead.
'use strict';

const AHEAD = 4;
const KEPT = 120;
const at = (id) => document.getElementById(id);
const canvas = at('picture');
const kept = new Map();
let frames = [];
let aspect = 1;
let shown = 0;
let turn = 0;

function picture(address) {
  let found = kept.get(address);
  if (!found) {
    found = new Promise((resolve) => {
      const image = new Image();
      image.onload = () => resolve(image);
      image.onerror = () => { kept.delete(address); resolve(null); };
      image.src = address;
    });
    kept.set(address, found);
    if (kept.size > KEPT) kept.delete(kept.keys().next().value);
  }
  return found;
}

function addresses(index) {
  const values = at('window').value;
  const overlay = at('overlay')?.checked;
  return [
    `${frames[index]}/rendered${values ? `?window=${values},linear` : ''}`,
    ...(overlay ? [`${frames[index]}/overlay`] : []),
  ];
}

async function show(index) {
  shown = Math.min(Math.max(index, 0), frames.length - 1);
  at('slider').value = shown + 1;
  at('place').textContent = `${shown + 1} / ${frames.length}`;
  const mine = ++turn;
  const [image, drawn] = await Promise.all(addresses(shown).map(picture));
  if (mine !== turn) return;
  at('fault').hidden = image !== null;
  if (!image) return;
  canvas.width = image.naturalWidth;
  canvas.height = Math.round(image.naturalHeight * aspect);
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = false;
  if (drawn && drawn.naturalWidth > 1) context.drawImage(drawn, 0, 0, canvas.width, canvas.height);
  canvas.dataset.shown = shown + 1;
  for (let step = 1; step <= AHEAD; step += 1) {
    for (const next of [shown + step, shown - step]) {
      if (frames[next]) addresses(next).forEach(picture);
    }
  }
}

function open(button) {
  document.querySelector('.series[aria-current]')?.removeAttribute('aria-current');
  button.setAttribute('aria-current', 'true');
  frames = JSON.parse(button.dataset.frames);
  aspect = Number(button.dataset.aspect);
  at('slider').max = frames.length;
  show(Math.floor(frames.length / 2));
}

for (const button of document.querySelectorAll('.series')) {
  button.addEventListener('click', () => open(button));
}
at('slider').addEventListener('input', () => show(at('slider').value - 1));
at('window').addEventListener('change', () => show(shown));
at('overlay')?.addEventListener('change', () => show(shown));
at('stage').addEventListener('wheel', (event) => {
  event.preventDefault();
  show(shown + Math.sign(event.deltaY));
}, { passive: false });
at('stage').addEventListener('keydown', (event) => {
  const steps = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, PageDown: 10, PageUp: -10 };
  if (event.key in steps) {
    event.preventDefault();
    show(shown + steps[event.key]);
  }
});
const first = document.querySelector('.series');
if (first) open(first);
