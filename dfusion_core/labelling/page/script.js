"use strict";
// The page keeps nothing but the labeller's name: what was asked and answered is the server's, so that a reload, a
// second tab or a new start of the server loses nothing. An answer that did not arrive is sent again under its id.
const token = new URLSearchParams(location.search).get("token") || "";
const $ = (id) => document.getElementById(id);
const RETRY = 2000; // milliseconds
let labeller = "", kind = "pair", question = null, busy = false, placed = 0;

async function post(path, body) {
  busy = true;
  for (;;) {
    try {
      const answer = await fetch(path, { method: "POST", body: JSON.stringify({ labeller, kind, ...body }),
        headers: { "Content-Type": "application/json", "X-Token": token } });
      if (answer.ok) { show("trouble", ""); busy = false; return await answer.json(); }
      show("trouble", await answer.text());
      if (answer.status < 500) { busy = false; return null; }
    } catch {
      show("trouble", "The server does not answer. Start the command again; this page goes on by itself.");
    }
    await new Promise((done) => setTimeout(done, RETRY));
  }
}

function show(id, text) { if ($(id).textContent !== text) $(id).textContent = text; }

function say(text) { $("said").textContent = text; }

function only(section) { for (const id of ["start", "work", "end"]) $(id).hidden = id !== section; }

function minutes(seconds) {
  if (seconds < 90) return `about ${Math.max(1, Math.round(seconds / 10)) * 10} s left`;
  return seconds < 5400 ? `about ${Math.round(seconds / 60)} min left` : `about ${(seconds / 3600).toFixed(1)} h left`;
}

function render(state) {
  if (!state) return;
  question = state.question;
  $("bar").max = Math.max(1, state.needed);
  $("bar").value = state.done;
  show("count", `${state.done} of ${state.needed} answers`);
  show("left", state.done < state.needed ? minutes(state.seconds_left) : "");
  show("same", state.repeats ? `repeated pairs answered the same: ${state.same} of ${state.repeats}` : "");
  for (const id of ["undo", "undo-last"]) $(id).disabled = !state.mine;
  if (!question) { only("end"); $("end-title").focus(); return; }
  only("work");
  const ordered = question.kind === "order";
  show("prompt", question.prompt);
  show("ask", ordered ? "Put in order, by how well they show:" : "Which one shows this better?");
  $("pair").hidden = ordered;
  for (const id of ["row", "row-help", "save"]) $(id).hidden = !ordered;
  $("tie").hidden = ordered;
  if (ordered) fillRow(); else ["first", "second"].forEach((id, n) => { $(id).src = address(question.pictures[n]); });
  $("prompt").focus({ preventScroll: true });
}

function address(hash) { return `/picture/${hash}?token=${encodeURIComponent(token)}`; }

async function answer(said, pictures) {
  if (busy || !question) return;
  const asked = question;
  const state = await post("/answer", { id: asked.id, pictures: pictures || asked.pictures, answer: said });
  if (!state) return;
  say(`Stored. ${state.done} of ${state.needed}.`);
  render(state);
}

async function undo() {
  if (busy) return;
  const state = await post("/undo", {});
  if (state) say("Your last answer was taken back; here it is once more.");
  render(state);
}

// A row to be ordered: the list itself is the order, best first.
function fillRow() {
  placed = 0;
  $("row").replaceChildren(...question.pictures.map((hash, n) => {
    const item = document.createElement("li"), image = document.createElement("img");
    const place = document.createElement("b");
    item.tabIndex = 0;
    item.dataset.hash = hash;
    item.dataset.name = String.fromCharCode(65 + n);
    image.src = address(hash);
    image.alt = "";
    image.draggable = false;
    item.append(image, place);
    return item;
  }));
  number();
}

function number() {
  [...$("row").children].forEach((item, n) => {
    item.lastChild.textContent = item.classList.contains("placed") ? String(n + 1) : "·";
    item.setAttribute("aria-label", `picture ${item.dataset.name}, place ${n + 1} of ${$("row").children.length}`);
  });
}

function move(item, to) {
  const items = [...$("row").children].filter((one) => one !== item);
  $("row").insertBefore(item, items[to] || null);
  number();
}

function tap(item) {
  if (item.classList.toggle("placed")) move(item, placed++);
  else { placed -= 1; move(item, $("row").children.length - 1); }
  number();
}

let held = null;
$("row").addEventListener("pointerdown", (event) => {
  const item = event.target.closest("li");
  if (!item || busy) return;
  held = { item, x: event.clientX, y: event.clientY, moved: false };
  item.setPointerCapture(event.pointerId);
});
$("row").addEventListener("pointermove", (event) => {
  if (!held) return;
  held.moved ||= Math.hypot(event.clientX - held.x, event.clientY - held.y) > 10;
  if (!held.moved) return;
  held.item.classList.add("held");
  const under = document.elementsFromPoint(event.clientX, event.clientY).find((one) => one.matches("#row li"));
  if (under && under !== held.item) move(held.item, [...$("row").children].indexOf(under));
});
for (const end of ["pointerup", "pointercancel"]) $("row").addEventListener(end, () => {
  if (!held) return;
  const { item, moved } = held;
  held = null;
  item.classList.remove("held");
  if (!moved) return tap(item);
  for (const one of $("row").children) one.classList.add("placed"); // who drags sees and means the whole order
  placed = $("row").children.length;
  number();
});
$("row").addEventListener("keydown", (event) => {
  const item = event.target.closest("li"), step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  if (!item || !step) return;
  event.preventDefault();
  const to = [...$("row").children].indexOf(item) + step;
  if (to < 0 || to >= $("row").children.length) return;
  for (const one of $("row").children) one.classList.add("placed");
  placed = $("row").children.length;
  move(item, to);
  item.focus();
  say(`Picture ${item.dataset.name} is now in place ${to + 1}.`);
});

function save() { answer("first", [...$("row").children].map((item) => item.dataset.hash)); }

function zoom() {
  if ($("large").open) { $("large").close(); return; }
  $("large-pictures").replaceChildren(...question.pictures.map((hash, n) => {
    const image = document.createElement("img");
    image.src = address(hash);
    image.alt = question.kind === "pair" ? ["first picture", "second picture"][n] : `picture ${n + 1}`;
    return image;
  }));
  $("large").showModal();
}

const actions = { "1": () => pairOnly("first"), "2": () => pairOnly("second"), "=": () => pairOnly("tie"),
  s: () => answer("skip"), u: undo, z: zoom };
function pairOnly(said) { if (question.kind === "pair") answer(said); }

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.target.matches("input")) return;
  if ($("work").hidden) { if (event.key === "u" && !$("end").hidden) undo(); return; }
  if (event.key === "Enter" && question.kind === "order" && !event.target.matches("button")) { save(); return; }
  if ($("large").open && event.key !== "z") return;
  const action = actions[event.key.toLowerCase()];
  if (action) { event.preventDefault(); action(); }
});
$("choose-first").addEventListener("click", () => pairOnly("first"));
$("choose-second").addEventListener("click", () => pairOnly("second"));
$("tie").addEventListener("click", () => pairOnly("tie"));
$("skip").addEventListener("click", () => answer("skip"));
for (const id of ["undo", "undo-last"]) $(id).addEventListener("click", undo);
$("save").addEventListener("click", save);
$("zoom").addEventListener("click", zoom);
$("close").addEventListener("click", () => $("large").close());

async function begin() {
  localStorage.setItem("labeller", labeller);
  localStorage.setItem("kind", kind);
  sessionStorage.setItem("begun", "yes");
  render(await post("/next", {}));
}
$("start-form").addEventListener("submit", (event) => {
  event.preventDefault();
  labeller = $("name").value.trim();
  kind = new FormData(event.target).get("kind");
  if (labeller) begin();
});
labeller = $("name").value = localStorage.getItem("labeller") || "";
kind = localStorage.getItem("kind") === "order" ? "order" : "pair";
for (const one of document.getElementsByName("kind")) one.checked = one.value === kind;
if (labeller && sessionStorage.getItem("begun")) begin(); else $("name").focus();
