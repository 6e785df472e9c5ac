"use strict";
// A range input lies over each picture: arrow keys, mouse and touch move what is shown of both frames.
for (const input of document.querySelectorAll(".slider input")) {
  const show = () => input.parentElement.style.setProperty("--at", input.value + "%");
  input.addEventListener("input", show);
  show();
}
for (const toggle of document.querySelectorAll("input.masks")) {
  const show = () => toggle.closest("section").classList.toggle("with-masks", toggle.checked);
  toggle.addEventListener("change", show);
  show();
}
