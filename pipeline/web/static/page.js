"use strict";
// Everything that is shown is set as text: names in it come from the network.

const LIVE_MS = 2000;
const RETRY_MS = 5000;
const $ = (id) => document.getElementById(id);
const stamps = new Map();

function element(kind, text, ...classes) {
  const made = document.createElement(kind);
  if (text !== undefined && text !== null) made.textContent = text;
  made.classList.add(...classes.filter(Boolean));
  return made;
}

const number = (value, digits) => (value === null ? "-" : value.toFixed(digits));

function bar(channel) {
  const cell = element("td");
  const made = element("span", null, "bar");
  if (channel.received_pct === null) {
    cell.append("-");
    return cell;
  }
  made.setAttribute("role", "img");
  const got = Math.min(100, channel.received_pct);
  made.setAttribute("aria-label", `${got.toFixed(0)} % received, ${channel.over_pct.toFixed(0)} % of the minute over`);
  for (const [name, width] of [["over", channel.over_pct], ["got", got]]) {
    const part = element("span", null, name);
    part.style.width = `${width}%`;
    made.append(part);
  }
  cell.append(made);
  return cell;
}

function row(channel) {
  const made = element("tr");
  // Rounded down: what is not complete never reads 100.
  const whole = channel.complete_pct === null || channel.complete_pct >= 100;
  const complete = whole ? number(channel.complete_pct, 0) : (Math.floor(channel.complete_pct * 100 + 1e-6) / 100).toFixed(2);
  made.append(
    element("td", channel.name),
    element("td", channel.level, channel.level),
    bar(channel),
    element("td", number(channel.dbfs, 1), "n"),
    element("td", channel.lost, "n"),
    element("td", channel.anchor.replace("_", " ")),
    element("td", number(channel.uncertainty_ms, 2), "n"),
    element("td", channel.last_minute ?? "none yet"),
    element("td", complete, "n"),
    element("td", channel.restarts, "n"),
  );
  return made;
}

function picture(kind, channel, caption) {
  const made = element("figure");
  const image = element("img");
  image.alt = `${caption}, ${channel.name}`;
  image.dataset.src = `/${kind}/${encodeURIComponent(channel.id)}.png`;
  const words = element("figcaption", caption);
  // There is none before the first file; the day's files take a while to read.
  image.onerror = () => {
    made.classList.add("none");
    words.textContent = `${caption}: nothing yet`;
    setTimeout(() => { if (image.isConnected) image.src = `${image.dataset.src}?${Date.now()}`; }, RETRY_MS);
  };
  image.onload = () => {
    made.classList.remove("none");
    words.textContent = caption;
  };
  made.append(image, words);
  return made;
}

function section(channel) {
  const made = element("section");
  made.id = `channel-${channel.id}`;
  made.append(
    element("h2", channel.name),
    picture("minute", channel, "last minute on disk"),
    picture("day", channel, "today: Doppler shift, and completeness (dark = all)"),
  );
  return made;
}

function showPictures(channels, minute) {
  const wanted = new Set(channels.map((channel) => `channel-${channel.id}`));
  for (const old of [...$("pictures").children]) if (!wanted.has(old.id)) old.remove();
  for (const channel of channels) {
    let shown = $(`channel-${channel.id}`);
    if (!shown) {
      shown = section(channel);
      $("pictures").append(shown);
    }
    // A new file, or a new minute of the day's strip, is a new address.
    const stamp = `${channel.stamp}-${minute}`;
    if (stamps.get(channel.id) === stamp) continue;
    stamps.set(channel.id, stamp);
    for (const image of shown.querySelectorAll("img")) image.src = `${image.dataset.src}?${stamp}`;
  }
}

function show(live) {
  $("instance").textContent = live.instance;
  $("level").textContent = live.level;
  $("level").className = live.level;
  $("up").textContent = live.up + (live.since ? ` for ${live.since}` : "");
  $("clock").textContent = `${new Date(live.utc_s * 1000).toISOString().slice(11, 19)}Z`;
  $("ntp").replaceChildren();
  if (live.ntp) $("ntp").append("ntp ", element("span", live.ntp.words.join("  "), live.ntp.level));
  $("processes").textContent = live.processes.join("; ");
  $("causes").replaceChildren(...live.causes.map((cause) => element("li", cause)));
  $("channels").replaceChildren(...live.channels.map(row));
  document.title = `${live.level} ${live.instance} - grape-pipeline`;
  showPictures(live.channels, Math.floor(live.utc_s / 60));
}

async function look() {
  try {
    const answer = await fetch("/live.json", { cache: "no-store" });
    if (!answer.ok) throw new Error(`answer ${answer.status}`);
    show(await answer.json());
  } catch (error) {
    $("level").textContent = "NO ANSWER";
    $("level").className = "CRIT";
    $("causes").replaceChildren(element("li", `grape-pipeline web does not answer: ${error.message}`));
  }
  setTimeout(look, LIVE_MS);
}

look();
