
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const lines = data.lines;
  const items = [...document.querySelectorAll(".line")];
  const audio = $("sound"), video = $("video"), player = $("player"), picture = $("picture");
  const ahead = new Audio();
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const STEP_SECONDS = 5;
  const FOLLOW_AGAIN_MS = 4000;
  const HAVE_CURRENT_DATA = 2;

  let current = -1;       // the line that is played, or would be
  let from = 0;           // where in it playing begins
  let deck = audio;       // what plays it
  let scrolledAt = 0;     // when somebody last scrolled by hand

  // --- time: the video's if the page has a video, otherwise the lesson's ---

  const inVideo = (i) => video !== null && lines[i].video !== null;
  const shownStart = (i) => (inVideo(i) ? lines[i].video : lines[i].start);
  const playable = (i) => inVideo(i) || lines[i].sound !== null;
  const length = (i) => lines[i].end - lines[i].start;

  function lessonTime() {
    if (current < 0) return 0;
    const line = lines[current];
    const next = current + 1 < lines.length ? lines[current + 1].start : data.seconds;
    return Math.min(line.start + position(), Math.max(next, line.end));
  }
  function position() {
    if (current < 0) return 0;
    const isThere = deck.readyState >= HAVE_CURRENT_DATA && !deck.seeking;
    if (!isThere || (deck === audio && audio.dataset.line !== String(current))) return from;
    return Math.max(0, deck.currentTime - begin(current));
  }
  const begin = (i) => (inVideo(i) ? lines[i].video : 0);
  function clock(seconds) {
    const whole = Math.max(0, Math.floor(seconds));
    const two = (number) => String(number).padStart(2, "0");
    const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
    return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
  }
  const say = (words) => { $("said").textContent = ""; $("said").textContent = words; };

  // --- which line ---

  function select(i, { follow = true } = {}) {
    if (i !== current) {
      if (current >= 0) items[current].removeAttribute("aria-current");
      items[Math.max(current, 0)].querySelector(".time").tabIndex = -1;
      current = i;
      items[i].setAttribute("aria-current", "true");
      items[i].querySelector(".time").tabIndex = 0;
      const text = items[i].querySelector(".texts p:not([hidden])");
      $("now").textContent = text ? text.textContent : "";
      if (follow && Date.now() - scrolledAt > FOLLOW_AGAIN_MS) show(i);
    }
    tick();
  }
  // Scrolls only if the line is not in view, so that the page does not move while somebody reads.
  function show(i) {
    const box = items[i].getBoundingClientRect();
    const top = $("tools").getBoundingClientRect().bottom;
    const bottom = player.hidden ? innerHeight : player.getBoundingClientRect().top;
    if (box.top >= Math.max(top, 0) && box.bottom <= bottom) return;
    const isFar = Math.abs(box.top) > 2 * innerHeight;
    items[i].scrollIntoView({ block: "center", behavior: isFar || calm.matches ? "auto" : "smooth" });
    // The lines in between get their real heights only while scrolling, so scroll once more.
    if (isFar) requestAnimationFrame(() => requestAnimationFrame(() => items[i].scrollIntoView({ block: "center" })));
  }
  function near(i, direction) {
    for (let j = i + direction; j >= 0 && j < lines.length; j += direction) if (!items[j].hidden) return j;
    return -1;
  }
  function lineAt(shown) {
    let found = 0;
    for (let i = 0; i < lines.length; i++) {
      if ((video === null || inVideo(i)) && shownStart(i) <= shown + 0.005) found = i;
    }
    return found;
  }

  // --- playing ---

  const playing = () => !deck.paused && !deck.ended;

  function play(i, offset = 0) {
    if (!playable(i)) {
      select(i);
      say("This line has no sound.");
      return;
    }
    if (!inVideo(i)) load(i);
    switchTo(inVideo(i) ? video : audio);
    from = offset;
    deck.currentTime = begin(i) + offset;
    select(i);
    deck.playbackRate = Number($("speed").value);
    deck.play().catch((problem) => {
      if (problem.name === "NotAllowedError") say("The browser plays nothing before a click.");
    });
  }
  function load(i) {
    if (audio.dataset.line === String(i)) return;
    audio.dataset.line = String(i);
    audio.src = lines[i].sound;
    const next = nextPlayable(i);
    if (next >= 0 && lines[next].sound && !inVideo(next)) ahead.src = lines[next].sound;
  }
  function switchTo(wanted) {
    if (deck !== wanted) deck.pause();
    deck = wanted;
  }
  function nextPlayable(i) {
    for (let j = i + 1; j < lines.length; j++) if (playable(j)) return j;
    return -1;
  }
  function toggle() {
    if (playing()) deck.pause();
    else if (deck === video) video.play();
    else play(Math.max(current, 0), current >= 0 ? position() : 0);
  }
  function goTo(i) {
    if (i < 0) return;
    scrolledAt = 0;
    if (playing()) play(i);
    else { cue(i, 0); items[i].querySelector(".time").focus({ preventScroll: true }); }
  }
  function cue(i, offset) {
    switchTo(inVideo(i) ? video : audio);
    from = offset;
    if (!inVideo(i) && lines[i].sound !== null) load(i);
    if (playable(i)) deck.currentTime = begin(i) + offset;
    select(i);
  }
  function seekLesson(moment) {
    let i = 0;
    while (i + 1 < lines.length && lines[i + 1].start <= moment) i++;
    const offset = Math.max(0, moment - lines[i].start);
    if (offset <= length(i) || i + 1 === lines.length) play(i, Math.min(offset, Math.max(0, length(i) - 0.1)));
    else play(i + 1);
  }
  function setSpeed(steps) {
    const speed = $("speed");
    speed.selectedIndex = Math.max(0, Math.min(speed.options.length - 1, speed.selectedIndex + steps));
    changeSpeed();
  }
  function changeSpeed() {
    for (const one of [audio, video]) if (one) one.playbackRate = one.defaultPlaybackRate = Number($("speed").value);
    say(`Speed ${$("speed").value}`);
  }

  function tick() {
    const moment = lessonTime();
    const shown = current < 0 ? 0 : shownStart(current) + position();
    $("clock").textContent = clock(shown);
    $("playhead").style.left = `${(100 * moment) / Math.max(data.seconds, 1)}%`;
    picture.setAttribute("aria-valuenow", moment.toFixed(0));
    picture.setAttribute("aria-valuetext", video ? clock(shown) : `${clock(shown)} of ${clock(data.seconds)}`);
  }
  function showState() {
    player.toggleAttribute("data-playing", playing());
    $("play").setAttribute("aria-label", playing() ? "Pause" : "Play");
  }
  for (const one of [audio, video].filter(Boolean)) {
    for (const event of ["play", "playing", "pause", "ended"]) one.addEventListener(event, showState);
    one.addEventListener("timeupdate", tick);
    // The start may have been chosen before the sound was loaded.
    one.addEventListener("loadedmetadata", () => {
      if (one === deck && current >= 0 && from > 0) one.currentTime = begin(current) + from;
    });
  }
  audio.addEventListener("ended", () => {
    const next = nextPlayable(current);
    if (next >= 0) play(next);
  });
  audio.addEventListener("error", () => {
    if (!audio.getAttribute("src")) return;
    say("The sound of this line is not beside this page, or cannot be played.");
    if (current >= 0) items[current].classList.remove("playable");
    showState();
  });
  if (video) {
    video.addEventListener("timeupdate", () => {
      if (deck === video && !video.seeking) select(lineAt(video.currentTime));
    });
    video.addEventListener("play", () => switchTo(video));
    video.addEventListener("seeked", () => { if (deck === video) select(lineAt(video.currentTime)); });
    video.addEventListener("error", () => say("The video is not where this page looks for it, or cannot be played."));
  }

  // --- searching: ignores what core/spelling.py does, and hyphens and apostrophes ---

  const SAME = {
    "ٱ": "ا", "ى": "ي", "ی": "ي", "ې": "ي", "ک": "ك", "ة": "ه", "ہ": "ه", "ۃ": "ه", "ە": "ه", "ھ": "ه", "ں": "ن",
    "ך": "כ", "ם": "מ", "ן": "נ", "ף": "פ", "ץ": "צ", "ੰ": "ਂ",
    "ς": "σ", "ß": "ss", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h",
  };
  const INDIC = [0x900, 0x980, 0xa00, 0xa80, 0xb00, 0xc00, 0xc80, 0xd00];
  for (const block of INDIC) SAME[String.fromCharCode(block + 1)] = String.fromCharCode(block + 2);  // chandrabindu
  for (let kana = 0x30a1; kana < 0x30f7; kana++) SAME[String.fromCharCode(kana)] = String.fromCharCode(kana - 0x60);
  const digits = (start) => { for (let n = 0; n < 10; n++) SAME[String.fromCharCode(start + n)] = String(n); };
  digits(0x660);
  digits(0x6f0);
  const OTHERS = new RegExp(`[${Object.keys(SAME).join("")}]`, "g");
  const MARKS = new RegExp("[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f"
    + "\u0670\u06d6-\u06ed\u0898-\u089f\u08ca-\u08ff\u093c\u09bc\u0a3c\u0abc\u0b3c\u0c3c\u0cbc\u200b-\u200f\u2060\u30fb"
    + "'’‘`´·\u02b9-\u02bf\u05f3\u05f4\u00ad\u058a\u05be\u2010-\u2013\u2212\uff0d\\-]", "g");
  // A nasal without a vowel is written as anusvara, too.
  const letters = (...offsets) => INDIC.flatMap((block) => offsets.map((n) => String.fromCharCode(block + n))).join("");
  const NASAL = new RegExp(`([${letters(0x19, 0x1e, 0x23, 0x28, 0x2e)}])[${letters(0x4d)}]`, "g");
  const anusvara = (_, nasal) => String.fromCharCode((nasal.charCodeAt(0) & ~0x7f) + 2);
  const fold = (text) => text.normalize("NFKD").replace(MARKS, "").toLowerCase().replace(MARKS, "")
    .replace(OTHERS, (c) => SAME[c]).replace(NASAL, anusvara);

  const texts = items.map((item) =>
    [...item.querySelectorAll("[data-language]")].map((place) => ({
      place, text: place.textContent, folded: null, marked: false,
    })));
  let wanted = [];

  function search() {
    wanted = fold($("search").value).split(/\s+/).filter(Boolean);
    let count = 0;
    items.forEach((item, i) => {
      const matches = wanted.length ? texts[i].filter((one) => !one.place.hidden && has(one)) : [];
      item.hidden = wanted.length > 0 && matches.length === 0;
      count += matches.length > 0;
      for (const one of texts[i]) highlight(one, matches.includes(one));
    });
    $("lines").classList.toggle("searched", wanted.length > 0);
    $("found").textContent = wanted.length ? `${count} of ${lines.length} lines` : "";
    $("nothing").hidden = !wanted.length || count > 0;
    showHits();
  }
  function has(one) {
    one.folded ??= fold(one.text);
    return wanted.every((word) => one.folded.includes(word));
  }
  function highlight(one, isMatch) {
    if (!isMatch && !one.marked) return;
    one.marked = isMatch;
    if (!isMatch) { one.place.textContent = one.text; return; }
    const parts = [];
    let done = 0;
    for (const [start, end] of places(one.text)) {
      const mark = document.createElement("mark");
      mark.textContent = one.text.slice(start, end);
      parts.push(one.text.slice(done, start), mark);
      done = end;
    }
    one.place.replaceChildren(...parts, one.text.slice(done));
  }
  // Where the words are in the original text; the normalised text may be shorter or longer.
  function places(text) {
    const origin = [];
    let folded = "", at = 0;
    for (const [sign] of text.matchAll(/\P{M}?\p{M}*/gu)) {
      const simple = fold(sign);
      for (let n = 0; n < simple.length; n++) origin.push(at);
      folded += simple;
      at += sign.length;
    }
    origin.push(text.length);
    const found = [];
    for (const word of wanted) {
      for (let i = folded.indexOf(word); i >= 0; i = folded.indexOf(word, i + word.length)) {
        let end = origin[i + word.length];
        if (end === origin[i]) end += 1;
        found.push([origin[i], end]);
      }
    }
    found.sort((one, other) => one[0] - other[0] || other[1] - one[1]);
    return found.filter(([start], i) => found.slice(0, i).every(([, end]) => start >= end));
  }
  function showHits() {
    $("hits").replaceChildren(...(wanted.length ? items : []).flatMap((item, i) => {
      if (item.hidden) return [];
      const hit = document.createElement("i");
      hit.style.left = `${(100 * lines[i].start) / Math.max(data.seconds, 1)}%`;
      return [hit];
    }));
  }
  function endSearch() {
    $("search").value = "";
    search();
    $("search").blur();
    if (current >= 0) show(current);
  }

  // --- languages ---

  const languages = [...document.querySelectorAll(".language")];
  function setLanguages(shown) {
    const tags = shown.length ? shown : languages.map((one) => one.dataset.language);
    for (const button of languages) button.setAttribute("aria-pressed", String(tags.includes(button.dataset.language)));
    for (const one of texts.flat()) one.place.hidden = !tags.includes(one.place.dataset.language);
    const seen = texts.flat().filter((one) => one.text && !one.place.hidden);
    $("lines").dir = seen.length && seen.every((one) => one.place.dir === "rtl") ? "rtl" : "ltr";
    $("lines").dataset.shown = String(tags.length);
    search();
  }
  const shownLanguages = () => languages.filter((one) => one.getAttribute("aria-pressed") === "true").map((one) => one.dataset.language);
  function toggleLanguage(tag) {
    const shown = shownLanguages();
    setLanguages(shown.includes(tag) ? shown.filter((one) => one !== tag) : [...shown, tag]);
  }
  for (const button of languages) {
    const tag = button.dataset.language;
    try {
      button.textContent = new Intl.DisplayNames([tag], { type: "language" }).of(tag);
      button.lang = tag;
    } catch { /* a tag that the browser does not know stays as it is */ }
    button.addEventListener("click", () => toggleLanguage(tag));
  }

  // --- links to a moment ---

  function momentIn(hash) {
    const found = /^#t=(?:(\d+):)??(?:(\d+):)?(\d+(?:\.\d+)?)$/.exec(hash);
    return found ? Number(found[1] ?? 0) * 3600 + Number(found[2] ?? 0) * 60 + Number(found[3]) : null;
  }
  function follow() {
    const moment = momentIn(location.hash);
    if (moment === null || !lines.length) return;
    const i = lineAt(moment);
    scrolledAt = 0;
    const offset = moment - shownStart(i);
    cue(i, offset > 0 && offset < length(i) ? offset : 0);
    show(i);
  }
  async function copyLink() {
    const shown = current < 0 ? 0 : shownStart(current) + position();
    history.replaceState(null, "", `#t=${shown.toFixed(1)}`);
    try {
      await navigator.clipboard.writeText(location.href);
      say("Link copied.");
    } catch {
      say("The address bar has the link.");
    }
  }

  // --- keyboard and mouse ---

  $("lines").addEventListener("click", (event) => {
    const item = event.target.closest(".line");
    if (!item || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const isTime = event.target.closest(".time");
    if (!isTime && !getSelection().isCollapsed) return;
    const i = items.indexOf(item);
    if (isTime) {
      event.preventDefault();
      history.replaceState(null, "", isTime.getAttribute("href"));
    }
    play(i);
  });
  picture.addEventListener("click", (event) => {
    const box = picture.getBoundingClientRect();
    scrolledAt = 0;
    if (lines.length) seekLesson(((event.clientX - box.left) / box.width) * data.seconds);
  });
  $("search").addEventListener("input", search);
  $("play").addEventListener("click", toggle);
  $("before").addEventListener("click", () => goTo(near(Math.max(current, 0), -1)));
  $("after").addEventListener("click", () => goTo(near(current, 1)));
  $("speed").addEventListener("change", changeSpeed);
  $("link").addEventListener("click", copyLink);
  $("help").addEventListener("click", () => $("keys").showModal());
  $("close").addEventListener("click", () => $("keys").close());
  for (const event of ["wheel", "touchmove"]) addEventListener(event, () => { scrolledAt = Date.now(); }, { passive: true });
  addEventListener("hashchange", follow);

  const KEYS = {
    " ": toggle,
    j: () => goTo(near(current, 1)),
    k: () => goTo(near(Math.max(current, 0), -1)),
    ArrowDown: () => goTo(near(current, 1)),
    ArrowUp: () => goTo(near(Math.max(current, 0), -1)),
    ArrowLeft: () => seekLesson(Math.max(0, lessonTime() - STEP_SECONDS)),
    ArrowRight: () => seekLesson(lessonTime() + STEP_SECONDS),
    Home: () => goTo(near(-1, 1)),
    End: () => goTo(near(lines.length, -1)),
    "/": () => { $("search").focus(); $("search").select(); },
    "<": () => setSpeed(-1),
    ">": () => setSpeed(1),
    c: copyLink,
    "?": () => $("keys").showModal(),
    0: () => setLanguages([]),
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open || !lines.length) return;
    if (event.target === $("search")) { keyInSearch(event); return; }
    if (event.target.matches("input, select, video") || (event.key === " " && event.target.matches("button"))) return;
    if (event.key === "Escape" && wanted.length) endSearch();
    const language = languages[Number(event.key) - 1];
    const action = language ? () => toggleLanguage(language.dataset.language) : KEYS[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
  function keyInSearch(event) {
    if (event.key === "Escape") { event.preventDefault(); endSearch(); }
    if (event.key !== "Enter" || !wanted.length) return;
    event.preventDefault();
    const next = event.shiftKey ? near(current < 0 ? 0 : current, -1) : near(current, 1);
    scrolledAt = 0;
    if (next >= 0) play(next);
    else say("No further match.");
  }

  // --- start ---

  $("silent").remove();
  $("tools").hidden = false;
  items.forEach((item, i) => {
    item.classList.toggle("playable", playable(i));
    item.classList.toggle("elsewhere", video !== null && !inVideo(i));
    item.querySelector(".time").tabIndex = i === 0 ? 0 : -1;
  });
  document.querySelector(".languages").hidden = languages.length < 2;
  player.hidden = !lines.some((_, i) => playable(i));
  picture.setAttribute("aria-valuemax", data.seconds.toFixed(0));
  setLanguages([]);
  tick();
  follow();
})();
