// SPDX-License-Identifier: Apache-2.0
// Reads /api/v1/fleet every two seconds and writes it into the page. Text is set as text, never as markup.
"use strict";

const READ_EVERY_MS = 2000;
const GOOD = new Set(["pass", "completed", "committed", "idle"]);
const BAD = new Set(["broken", "halted", "rolled-back", "safe-mode"]);

const find = (id) => document.getElementById(id);

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function pill(text, tone) {
  const known = GOOD.has(text) ? "good" : BAD.has(text) ? "bad" : "wait";
  return element("span", text, `pill ${tone === undefined ? known : tone}`);
}

function row(cells) {
  const made = element("tr");
  for (const cell of cells) {
    const holder = element("td");
    holder.append(cell instanceof Node ? cell : document.createTextNode(cell ?? "–"));
    made.append(holder);
  }
  return made;
}

function ago(now, then) {
  if (then === null || then === undefined) return "never";
  const seconds = Math.max(0, Math.round(now - then));
  if (seconds < 90) return `${seconds} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  return new Date(then * 1000).toLocaleString();
}

function releases(state) {
  const running = [state.running, ...(state.also_running ?? [])].filter((release) => release);
  return running.map((release) => `${release.name} ${release.version}`).join(", ") || "no model";
}

function showDevices(view) {
  const online = view.devices.filter((device) => device.state?.connected);
  find("count-devices").textContent = view.devices.length;
  find("count-online").textContent = online.length;
  find("count-offline").textContent = view.devices.length - online.length;
  find("count-stored").textContent = (view.ingestion.stored ?? 0).toLocaleString();
  find("devices").tBodies[0].replaceChildren(...view.devices.map((device) => {
    const state = device.state;
    const connection = device.cloned_at ? pill("cloned", "bad") : device.decommissioned_at ? pill("gone", "")
      : !device.enrolled ? pill("invited", "") : state?.connected ? pill("online", "good") : pill("offline", "bad");
    return row([
      device.name, connection, state ? releases(state) : "–", state ? pill(state.status) : "–",
      device.ordered ? `${device.ordered} (order ${device.counter})` : "nothing", device.profile,
      ago(view.now, device.last_seen),
    ]);
  }));
}

function describeRollout(rollout) {
  const line = element("p");
  line.append(element("strong", `${rollout.name} ${rollout.version} `), pill(rollout.state));
  if (rollout.cause) line.append(` cause: ${rollout.cause}`);
  const counts = element("p", `${rollout.assigned} of ${rollout.covered} devices have the order, ` +
    `${rollout.settled} run it, ${rollout.failed} failed; ${rollout.held_out} held out, ${rollout.offline} offline, ` +
    `${rollout.not_covered.length} not covered.`, "quiet");
  return [line, counts];
}

function showWaves(rollout) {
  const stopped = rollout.state === "halted" || rollout.state === "rolled-back";
  find("waves").replaceChildren(...rollout.wave_percents.map((percent, index) => {
    const number = index + 1;
    const done = number < rollout.wave || rollout.state === "completed";
    const current = number === rollout.wave && !done;
    const made = element("li", `Wave ${number}: ${percent} %`, done ? "done" : current ? (stopped ? "stopped" : "current") : "");
    if (current) made.setAttribute("aria-current", "step");
    return made;
  }));
}

function showVerdict(verdict) {
  const table = find("verdict");
  table.hidden = !verdict;
  const findings = verdict ? verdict.findings : [];
  table.tBodies[0].replaceChildren(...findings.map((finding) =>
    row([finding.rule, pill(finding.outcome, finding.outcome === "not-applicable" ? "" : undefined), finding.text])));
}

function showRollout(rollout) {
  if (!rollout) return;
  const signature = JSON.stringify([rollout.id, rollout.state, rollout.wave, rollout.assigned, rollout.settled,
    rollout.failed, rollout.offline, rollout.held_out]);
  const box = find("rollout");
  if (box.dataset.shown !== signature) {  // a screen reader hears changes only
    box.dataset.shown = signature;
    box.replaceChildren(...describeRollout(rollout));
    showWaves(rollout);
  }
  showVerdict(rollout.verdict);
}

function showEvents(view) {
  find("events").tBodies[0].replaceChildren(...view.events.map((event) =>
    row([ago(view.now, event.received_at), event.device, event.kind, event.cause, event.version, event.detail])));
}

function showLink(text, tone) {
  const link = find("link");
  if (link.textContent !== text) link.textContent = text;
  link.className = `pill ${tone}`;
}

async function refresh() {
  try {
    const answer = await fetch("/api/v1/fleet", { headers: { accept: "application/json" } });
    if (answer.status === 401 || answer.status === 403) { window.location.reload(); return; }
    const view = await answer.json();
    showDevices(view);
    showRollout(view.rollout);
    showEvents(view);
    showLink(`broker: ${view.health.broker}`, view.health.broker_connected ? "good" : "bad");
  } catch (error) {
    showLink("the server does not answer; this page shows what was known last", "bad");
  }
  window.setTimeout(refresh, READ_EVERY_MS);
}

refresh();
