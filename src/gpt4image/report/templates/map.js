"use strict";
const { classes, images } = JSON.parse(document.querySelector("#data").textContent);
const svg = document.querySelector(".map svg"), box = document.querySelector("#shown");
const points = [...document.querySelectorAll("#points circle")];
const choice = document.querySelector("#class");
let current = -1;

function highlight(number) {
  for (const point of points) point.classList.toggle("lit", number !== "" && point.dataset.class === number);
  const lit = document.querySelectorAll("#points .lit").length;
  document.querySelector("#count").textContent = number === "" ? "" : lit + (lit === 1 ? " image" : " images");
}

function show(at) {
  if (current >= 0) points[current].classList.remove("current");
  current = at;
  const [path, label, text, thumbnail] = images[at];
  points[at].classList.add("current");
  points[at].parentNode.append(points[at]); // drawn last, over its neighbours
  const picture = box.querySelector("img");
  picture.hidden = !thumbnail;
  box.querySelector(".no-picture").hidden = Boolean(thumbnail);
  if (thumbnail) picture.src = thumbnail;
  picture.alt = label < 0 ? "Image" : "Image of class " + classes[label];
  box.querySelector(".label").textContent = label < 0 ? "" : classes[label];
  box.querySelector(".path").textContent = path;
  box.querySelector(".text").textContent = text;
  box.hidden = false;
}

// The nearest point counts, so that fingers need not hit it
function nearest(event) {
  const frame = svg.getBoundingClientRect(), scale = 1000 / frame.width;
  const x = (event.clientX - frame.left) * scale, y = (event.clientY - frame.top) * scale;
  let best = -1, least = (24 * scale) ** 2;
  points.forEach((point, at) => {
    const away = (point.cx.baseVal.value - x) ** 2 + (point.cy.baseVal.value - y) ** 2;
    if (away < least) { best = at; least = away; }
  });
  if (best >= 0 && best !== current) show(best);
}

svg.addEventListener("pointermove", nearest);
svg.addEventListener("pointerdown", nearest);
svg.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  show((current + step + points.length) % points.length);
});
if (choice) choice.addEventListener("change", () => highlight(choice.value));
