// The page at /ui. Every text and name goes into the document as text, never as markup; the Content-Security-Policy
// that serving/page.py sends forbids both inline scripts and assignments of markup.

import { divide } from "./words.js";

const LONG_TEXT = 50_000; // characters in the text box; Chromium takes minutes to find the direction of a very long line
const SHOWN_CHARACTERS = 10_000; // of a text; each word is an element
const SHOWN_TERMS = 200;
const SHOWN_TITLE = 200;
const SHADED_FROM = 0.02; // of the largest share: smaller ones cannot be seen
const TRAFFIC_EVERY = 10_000; // ms
const NO_CLUSTER = -1;
// As in scripts/assignment/table_file.py: an apostrophe before a formula makes spreadsheets show it as text.
const FORMULA = /(^|;)(?='*\s*[=+\-@\t\r＝＋－＠])/g;

const byId = (id) => document.getElementById(id);
let model; // the content of ui/model.json
let clusters = new Map(); // by number
let request = new AbortController();

// ------------------------------------------------------------------------------------------------------------- elements

/** Create an element; a child is an element or a string, a property that starts with -- a CSS variable. */
function create(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const number = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const percent = (value) => `${(100 * value).toFixed(1)} %`;
const count = (value) => value.toLocaleString("en");
const clip = (text, length) => (text.length > length ? `${text.slice(0, length)}…` : text);

function bar(size, below = false) {
  return create("span", { className: below ? "bar below" : "bar", "--size": size });
}

/** What people call a cluster: its name, or else its first terms. */
function label(cluster, terms = 5) {
  if (cluster.cluster === NO_CLUSTER) return cluster.nearest ? "too far from all clusters" : "no in-vocabulary word";
  return cluster.name ?? cluster.top_terms.slice(0, terms).join(", ");
}

/**
 * Create a table that its header sorts.
 *
 * @param {{title: string, className?: string, value: Function, cell: Function}[]} columns value: to sort by; cell: the
 *   content of a cell; both get a row
 */
function sortableTable(caption, columns, rows, prepare = () => {}) {
  const body = create("tbody");
  const headers = columns.map((column) => create("th", { scope: "col", className: column.className ?? "" }));
  const fill = (sorted) => body.replaceChildren(...sorted.map((row) => tableRow(columns, row, prepare)));
  columns.forEach((column, i) => {
    const sort = create("button", { type: "button" }, column.title);
    sort.addEventListener("click", () => {
      const descending = headers[i].ariaSort === "ascending";
      headers.forEach((header) => header.removeAttribute("aria-sort"));
      headers[i].setAttribute("aria-sort", descending ? "descending" : "ascending");
      const sorted = rows.toSorted((one, other) => compare(column.value(one), column.value(other)));
      fill(descending ? sorted.reverse() : sorted);
    });
    headers[i].append(sort);
  });
  fill(rows);
  return create("table", { className: "overview" }, create("caption", {}, caption), create("thead", {}, create("tr", {}, ...headers)), body);
}

function tableRow(columns, row, prepare) {
  const [first, ...others] = columns.map(({ cell, className = "" }, i) => {
    const properties = i ? { className } : { className, scope: "row" };
    return create(i ? "td" : "th", properties, ...[cell(row)].flat());
  });
  const element = create("tr", {}, first, ...others);
  prepare(element, row);
  return element;
}

function compare(one, other) {
  if (typeof one === "string") return one.localeCompare(other);
  return (one ?? -Infinity) - (other ?? -Infinity);
}

// -------------------------------------------------------------------------------------------------------------- service

/** Fetch JSON of the service, relative to this page; an error carries what the service says. */
async function fetchJson(path, options) {
  let response, body;
  try {
    response = await fetch(path, options);
    body = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(`The service does not answer: ${error.message}`);
  }
  let content;
  try {
    content = JSON.parse(body);
  } catch {
    content = { error: clip(body, 500) || response.statusText };
  }
  if (!response.ok) throw new Error(`${response.status}: ${content.error ?? content.detail ?? body}`);
  return content;
}

function tooLarge(bytes) {
  const [size, limit] = [bytes, model.limits.bytes].map((value) => (value / 2 ** 20).toFixed(1));
  return `The text has ${size} MiB and this service accepts ${limit} MiB: shorten it.`;
}

async function explain(texts) {
  const body = JSON.stringify({ instances: texts });
  const bytes = new TextEncoder().encode(body).length;
  if (bytes > model.limits.bytes) throw new Error(tooLarge(bytes));
  request.abort();
  request = new AbortController();
  const path = `v1/models/${encodeURIComponent(model.model)}:explain`;
  const headers = { "Content-Type": "application/json" };
  return (await fetchJson(path, { method: "POST", body, headers, signal: request.signal })).explanations;
}

async function submit(event) {
  event?.preventDefault();
  const text = byId("text").value;
  const texts = byId("lines").checked ? text.split(/\r?\n/).filter((line) => line.trim()) : [text];
  for (const id of ["error", "texts", "result"]) byId(id).hidden = true;
  if (!text.trim()) return void (byId("status").textContent = "Enter a text first.");
  byId("status").textContent = "Waiting for the service …";
  try {
    showAnswers(texts, await explain(texts));
  } catch (error) {
    if (error.name === "AbortError") return; // a later request took its place
    showError(error.message);
  }
}

function showError(message) {
  byId("status").textContent = "";
  byId("error").textContent = message;
  byId("error").hidden = false;
}

/** Keep a text that is pasted by mistake from blocking the browser. */
function checkLength(event) {
  const text = byId("text");
  const inserted = event.data ?? event.dataTransfer?.getData("text/plain") ?? "";
  const length = text.value.length - (text.selectionEnd - text.selectionStart) + inserted.length;
  text.dir = length > LONG_TEXT ? "ltr" : "auto";
  if (!model || length <= model.limits.bytes) return;
  event.preventDefault();
  showError(`${tooLarge(length)} It was not inserted.`);
}

function showAnswers(texts, explanations) {
  if (byId("lines").checked) {
    byId("status").textContent = `${count(texts.length)} texts. Select one to see its words.`;
    showTable(texts.map((text, i) => ({ line: i + 1, text, ...explanations[i] })));
  } else {
    const [answer] = explanations;
    byId("status").textContent = answer.cluster === NO_CLUSTER ? "The text is in no cluster." : `The text is in cluster ${answer.cluster}.`;
    showAnswer(texts[0], answer);
  }
}

// ------------------------------------------------------------------------------------------------------------- one text

function showAnswer(text, answer) {
  const heading = answer.cluster === NO_CLUSTER ? "No cluster (-1)" : `Cluster ${answer.cluster}: ${label(answer)}`;
  const card = create("section", { className: "answer" }, create("h3", { tabIndex: -1 }, create("bdi", {}, heading)));
  card.append(...aboutWords(text, answer));
  if (answer.cluster === NO_CLUSTER) card.append(create("p", {}, explainNoCluster(answer)));
  if (answer.similarity !== null) {
    const nearest = { ...answer, ...(answer.cluster === NO_CLUSTER ? answer.nearest[0] : {}) };
    card.append(create("div", {}, create("div", {}, ...aboutCluster(nearest)), create("div", {}, ...aboutSimilarity(nearest))));
  }
  if (answer.shares.length) card.append(tableOfShares(answer.shares));
  byId("result").replaceChildren(card);
  byId("result").hidden = false;
  for (const row of document.querySelectorAll("#clusters-table tr[data-cluster]")) {
    row.classList.toggle("chosen", row.dataset.cluster === String(answer.cluster));
  }
}

function explainNoCluster(answer) {
  if (answer.nearest) {
    const [{ cluster, similarity }] = answer.nearest;
    return `The text is too far from all clusters: its similarity to the nearest one, cluster ${cluster}, is ${number(similarity)}, and this service requires ${answer.min_similarity}.`;
  }
  return "None of the text's words is in the vocabulary of the model, so there is nothing to compare with the clusters. " +
    "Numbers, and words that were rare in the training documents, are not in the vocabulary.";
}

function aboutCluster(answer) {
  const { runner_up: runnerUp } = answer;
  const terms = (cluster) => create("bdi", { className: "terms" }, cluster.top_terms.join(", "));
  const paragraphs = [create("p", {}, create("b", {}, "Top terms: "), terms(answer))];
  if (runnerUp) {
    const name = runnerUp.name ? [" ", create("bdi", {}, runnerUp.name), ":"] : [":"];
    const similarity = ` (similarity ${number(runnerUp.similarity)})`;
    paragraphs.push(create("p", {}, create("b", {}, `Runner-up: cluster ${runnerUp.cluster}`), similarity, ...name, " ", terms(runnerUp)));
  }
  return paragraphs;
}

function aboutSimilarity(answer) {
  const quantiles = clusters.get(answer.cluster)?.similarity;
  const sentence = quantiles
    ? `In training, the middle half of this cluster's documents scored ${number(quantiles["0.25"])} to ${number(quantiles["0.75"])}; this text ${position(answer.similarity, quantiles)}.`
    : "";
  const text = `Similarity to the cluster's centroid (cosine): ${number(answer.similarity)}. ${sentence}`;
  const legend = create("p", { className: "quiet legend" }, "Blue: the training documents of this cluster; light 90 %, dark 50 %, line: median.");
  return [scale(answer, quantiles), ...(quantiles ? [legend] : []), create("p", {}, text)];
}

function position(similarity, quantiles) {
  if (similarity < quantiles["0.05"]) return "scores lower than 95 % of them: it is unlike the training documents";
  if (similarity < quantiles["0.25"]) return "is in the lowest quarter";
  if (similarity <= quantiles["0.75"]) return "is in this half";
  return "is in the highest quarter";
}

function scale(answer, quantiles) {
  const at = (value) => ({ "--at": Math.min(Math.max(value, 0), 1) });
  const parts = [create("span", { className: "axis" }), create("span", { className: "end" }, "0"), create("span", { className: "end last" }, "1")];
  if (quantiles) {
    parts.push(
      create("span", { className: "band", "--from": quantiles["0.05"], "--to": quantiles["0.95"] }),
      create("span", { className: "band half", "--from": quantiles["0.25"], "--to": quantiles["0.75"] }),
      create("span", { className: "median", ...at(quantiles["0.5"]) }),
    );
  }
  if (answer.runner_up) {
    const { cluster, similarity } = answer.runner_up;
    parts.push(
      create("span", { className: "mark other", ...at(similarity) }),
      create("span", { className: "label other", ...at(similarity) }, `cluster ${cluster}: ${number(similarity)}`),
    );
  }
  parts.push(
    create("span", { className: "mark", ...at(answer.similarity) }),
    create("span", { className: "label", ...at(answer.similarity) }, `similarity ${number(answer.similarity)}`),
  );
  return create("div", { className: "scale", role: "img", ariaLabel: `Similarity ${number(answer.similarity)} on a scale from 0 to 1` }, ...parts);
}

function aboutWords(text, { shares }) {
  const shareOf = new Map(shares.map((share) => [share.term, share]));
  const parts = [];
  if (text.length > SHOWN_CHARACTERS) parts.push(create("p", { className: "quiet" }, `The first ${count(SHOWN_CHARACTERS)} of ${count(text.length)} characters:`));
  return [...parts, shade(text.slice(0, SHOWN_CHARACTERS), shareOf), legendOfShades()];
}

/** The text with each word shaded by the share of its terms in the similarity. */
function shade(text, shareOf) {
  const largest = Math.max(...[...shareOf.values()].map(({ share }) => Math.abs(share)), 1e-9);
  const pieces = divide(text, shareOf).map(({ text: piece, terms, isWord }) => {
    if (!isWord) return piece;
    if (!terms.length) return create("span", { className: "unknown", title: "not in the vocabulary" }, piece);
    const shares = terms.map((term) => shareOf.get(term));
    const sum = shares.reduce((total, { share }) => total + share, 0);
    const title = shares.map(({ term, written = term, share }) => `${written}: ${number(share, 4)}`).join("\n");
    const size = Math.min(Math.abs(sum) / largest, 1);
    const className = size < SHADED_FROM ? "small" : sum < 0 ? "share away" : "share";
    return create("span", { className, title, "--size": size }, piece);
  });
  return create("p", { className: "shaded", dir: "auto", tabIndex: 0, role: "group", ariaLabel: "The text, shaded by the share of each word" }, ...pieces);
}

function legendOfShades() {
  const entries = [["share", "adds to the similarity", 0.8], ["share away", "pulls away from the cluster", 0.8], ["unknown", "not in the vocabulary", 0]];
  return create("ul", { className: "legend" }, ...entries.map(([className, text, size]) => create("li", {}, create("span", { className, "--size": size }, text))));
}

function tableOfShares(shares) {
  const largest = Math.max(...shares.map(({ share }) => Math.abs(share)), 1e-9);
  const rows = shares.slice(0, SHOWN_TERMS).map(({ term, written = term, share }) =>
    create("tr", {},
      create("th", { scope: "row" }, create("bdi", {}, written)),
      create("td", { className: "number" }, number(share, 4)),
      create("td", {}, bar(Math.abs(share) / largest, share < 0)),
    ));
  const left = shares.length - rows.length;
  const caption = `Together the shares are the similarity${left > 0 ? `; ${count(left)} smaller ones are not shown` : ""}`;
  const header = create("tr", {}, ...["Term", "Share", ""].map((title, i) => (i < 2 ? create("th", { scope: "col", className: i ? "number" : "" }, title) : create("td"))));
  const table = create("table", { className: "shares" }, create("caption", {}, caption), create("thead", {}, header), create("tbody", {}, ...rows));
  return create("details", {}, create("summary", {}, `Shares of ${count(shares.length)} terms`), table);
}

// ---------------------------------------------------------------------------------------------------------- many texts

const COLUMNS = [
  { title: "Line", value: (row) => row.line, cell: (row) => String(row.line) },
  { title: "Text", className: "wide", value: (row) => row.text, cell: textButton },
  { title: "Cluster", className: "number", value: (row) => row.cluster, cell: (row) => String(row.cluster) },
  { title: "Name or top terms", className: "wide", value: (row) => label(row), cell: (row) => create("bdi", {}, label(row)) },
  { title: "Similarity", className: "number", value: (row) => row.similarity, cell: (row) => number(row.similarity) },
  { title: "Runner-up", className: "number", value: (row) => row.runner_up?.cluster, cell: (row) => String(row.runner_up?.cluster ?? "–") },
  { title: "Its similarity", className: "number", value: (row) => row.runner_up?.similarity, cell: (row) => number(row.runner_up?.similarity) },
];

function textButton(row) {
  const button = create("button", { type: "button", className: "plain", dir: "auto" }, clip(row.text, SHOWN_TITLE));
  button.addEventListener("click", () => {
    showAnswer(row.text, row);
    byId("result").querySelector("h3").focus();
  });
  return button;
}

function showTable(rows) {
  const copy = create("button", { type: "button", className: "secondary" }, "Copy");
  const download = create("button", { type: "button", className: "secondary" }, "Download CSV");
  copy.addEventListener("click", async () => {
    await copyText(asTable(rows, "\t"));
    byId("status").textContent = `Copied ${count(rows.length)} rows.`;
  });
  download.addEventListener("click", () => save("clusters.csv", asTable(rows, ",")));
  const table = create("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Table of texts" }, sortableTable("Each text with its cluster", COLUMNS, rows));
  byId("texts").replaceChildren(create("div", { className: "controls" }, copy, download), table);
  byId("texts").hidden = false;
}

/** The rows with a header, as spreadsheets read them. */
function asTable(rows, separator) {
  const header = ["line", "text", "cluster", "cluster_name", "top_terms", "similarity", "runner_up", "runner_up_similarity"];
  const lines = rows.map((row) => [row.line, row.text, row.cluster, row.name, row.top_terms.join(", "), row.similarity, row.runner_up?.cluster, row.runner_up?.similarity]);
  return [header, ...lines].map((line) => line.map((value) => cellOf(value, separator)).join(separator)).join("\r\n") + "\r\n";
}

function cellOf(value, separator) {
  if (typeof value !== "string") return String(value ?? "");
  const text = value.replaceAll(FORMULA, "$1'");
  if (separator === "\t") return text.replaceAll(/[\t\r\n]/g, " ");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Without https, browsers offer the clipboard on localhost only.
  const field = create("textarea", { value: text });
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

function save(name, text) {
  const address = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv" }));
  create("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1_000);
}

// ------------------------------------------------------------------------------------------------- clusters and traffic

/** The values of a counter of this process by cluster, from Prometheus' text format. */
function readCounter(metrics, name) {
  const traffic = new Map();
  for (const line of metrics.split("\n")) {
    const match = /^(\w+)\{(?:.*,)?cluster="(-?\d+)".*\} (\S+)$/.exec(line);
    if (match?.[1] === name) traffic.set(Number(match[2]), (traffic.get(Number(match[2])) ?? 0) + Number(match[3]));
  }
  return traffic;
}

const sum = (counter) => [...counter.values()].reduce((total, value) => total + value, 0);

async function updateTraffic() {
  if (document.hidden) return;
  let metrics = "";
  try {
    const response = await fetch("metrics");
    if (response.ok) metrics = await response.text();
  } catch {
    // no traffic to show
  }
  const traffic = readCounter(metrics, "textclustering_documents_total");
  const total = sum(traffic);
  const rejected = sum(readCounter(metrics, "textclustering_rejected_documents_total"));
  const documents = total ? `${count(total)} documents since this process started` : "no documents since this process started";
  const unknown = total ? `, ${count(traffic.get(NO_CLUSTER) ?? 0)} of them without an in-vocabulary word (-1)` : "";
  const distant = rejected ? `, ${count(rejected)} too far from all clusters (-1)` : "";
  byId("traffic").textContent = `Live traffic: ${documents}${unknown}${distant}. Texts tried on this page are not counted.`;
  for (const cluster of clusters.values()) cluster.live = total ? (traffic.get(cluster.cluster) ?? 0) / total : null;
  for (const cell of document.querySelectorAll("[data-live]")) showLive(cell, clusters.get(Number(cell.dataset.live)));
}

function showLive(cell, { live = null }) {
  cell.replaceChildren(...(live === null ? ["–"] : [percent(live), bar(live / largestShare())]));
}

function largestShare() {
  return Math.max(...[...clusters.values()].flatMap(({ share, live }) => [share, live ?? 0]), 1e-9);
}

function showClusters() {
  const largest = Math.max(...[...clusters.values()].map(({ size }) => size), 1);
  const named = [...clusters.values()].some(({ name }) => name);
  const columns = [
    { title: "Cluster", value: (row) => row.cluster, cell: (row) => String(row.cluster) },
    ...(named ? [{ title: "Name", value: (row) => row.name ?? "", cell: (row) => create("bdi", {}, row.name ?? "–") }] : []),
    { title: "Top terms", className: "wide", value: (row) => row.top_terms.join(), cell: (row) => create("bdi", {}, row.top_terms.join(", ")) },
    { title: "Documents", className: "number measure", value: (row) => row.size, cell: (row) => [count(row.size), bar(row.size / largest)] },
    { title: "Training", className: "number measure", value: (row) => row.share, cell: (row) => [percent(row.share), bar(row.share / largestShare())] },
    { title: "Live", className: "number measure", value: (row) => row.live, cell: liveCell },
    { title: "Central documents", className: "wide", value: (row) => row.titles[0] ?? "", cell: titlesCell },
  ];
  const caption = "Documents: in the training data. Training and live: share of all documents";
  byId("clusters-table").replaceChildren(sortableTable(caption, columns, [...clusters.values()], (element, row) => {
    element.dataset.cluster = row.cluster;
  }));
}

function liveCell(row) {
  const cell = create("span", {});
  cell.dataset.live = row.cluster;
  showLive(cell, row);
  return cell;
}

function titlesCell({ titles }) {
  const [first, ...others] = titles.map((title) => create("bdi", {}, clip(title, SHOWN_TITLE)));
  if (!others.length) return first ?? "–";
  return create("details", {}, create("summary", {}, first), create("ul", {}, ...others.map((title) => create("li", {}, title))));
}

// ---------------------------------------------------------------------------------------------------------------- model

function facts(caption, entries) {
  const rows = entries.map(([name, value, note]) =>
    create("tr", {}, create("th", { scope: "row" }, name.replaceAll("_", " "), ...(note ? [create("small", {}, note)] : [])), create("td", { className: "number" }, create("bdi", {}, String(value)))));
  return create("table", {}, create("caption", {}, caption), create("tbody", {}, ...rows));
}

function showModel({ dataset, settings, metrics, versions, baseline, created, metric_meanings: meanings }) {
  const trained = `${created.slice(0, 16).replace("T", " ")} UTC`;
  byId("subtitle").textContent = `Version ${model.version}, trained ${trained} on ${count(dataset.documents)} documents of ${dataset.name}.`;
  byId("facts").replaceChildren(
    facts("Model", [["name", model.model], ["version", model.version], ["trained", trained], ["dataset", dataset.name], ["documents", count(dataset.documents)], ["sample size", count(settings.sample), "documents that the model was fitted on"], ["without in-vocabulary words", percent(baseline.unknown), "of the documents: cluster -1"]]),
    facts("Scores", Object.entries(metrics).map(([name, value]) => [name, number(value), meanings[name]])),
    facts("Settings", Object.entries(settings)),
    facts("Versions", Object.entries(versions)),
  );
}

let nextExample = 0;

/** Put the title of a central document of a cluster, or else the cluster's top terms, into the text box. */
function showExample() {
  const largestFirst = [...clusters.values()].sort((one, other) => other.size - one.size);
  const cluster = largestFirst[nextExample++ % largestFirst.length];
  byId("text").value = cluster?.titles.find((title) => title.trim()) ?? cluster?.top_terms.join(", ") ?? "";
}

async function start() {
  byId("form").addEventListener("submit", submit);
  byId("example").addEventListener("click", showExample);
  byId("text").addEventListener("beforeinput", checkLength);
  byId("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
  });
  try {
    model = await fetchJson("ui/model.json");
  } catch (error) {
    return showError(error.message);
  }
  byId("title").textContent = document.title = model.model;
  byId("report").hidden = !model.report;
  if (!model.summary) {
    byId("subtitle").textContent = "This service has no clusters.json, so it can neither describe its clusters nor explain its answers.";
    return;
  }
  clusters = new Map(model.summary.clusters.map(({ terms, titles = [], ...cluster }) => [cluster.cluster, { ...cluster, titles, top_terms: terms.map(([term]) => term) }]));
  showModel(model.summary);
  showClusters();
  showExample();
  await updateTraffic();
  setInterval(updateTraffic, TRAFFIC_EVERY);
}

start();
