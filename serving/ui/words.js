// Find the words of a text, and their places in it, by the rules of scripts/training/words.py.

const SCRIPTS = [
  "Balinese", "Bopomofo", "Han", "Hiragana", "Javanese", "Katakana", "Khmer", "Lao", "Myanmar", "New_Tai_Lue", "Tai_Le",
  "Tai_Tham", "Tai_Viet", "Thai",
].map((name) => `\\p{Script=${name}}`).join("");
const VOICING = "\\u3099\\u309a";
const HANGUL_INITIAL = "\\u1100-\\u115e\\ua960-\\ua97c";
const HANGUL_FOLLOWING = "\\u1161-\\u11ff\\ud7b0-\\ud7fb";
const HANGUL = `[${HANGUL_INITIAL}${HANGUL_FOLLOWING}]`;
const BEYOND = "\\u{10000}-\\u{1cfff}\\u{1e000}-\\u{1efff}\\u{20000}-\\u{3ffff}";

// U+30FC, the mark of long vowels, and U+3006 belong to no single script.
const SPACELESS = `[[\\p{L}\\p{Mn}\\p{Mc}]&&[${SCRIPTS}${VOICING}\\u30fc\\u3006]&&[\\u0000-\\uffff]]`;
const withSpaces = (categories) => `[[[${categories}]--${SPACELESS}--${HANGUL}--[\\u{10000}-\\u{10ffff}]]${BEYOND}]`;
const LETTER = withSpaces("\\p{L}");
const INSIDE = withSpaces("\\p{L}\\p{N}_\\p{Mn}\\p{Mc}");

const WORD = `(?<!${INSIDE})${LETTER}(?:${INSIDE}+|[+#]{0,2})`;
const PAIR = `${SPACELESS}{2,}`;
const STEM = `(?<!${HANGUL})[${HANGUL_INITIAL}][${HANGUL_FOLLOWING}]*(?:[${HANGUL_INITIAL}][${HANGUL_FOLLOWING}]*)?`;
const TOKEN = new RegExp(`${WORD}|${PAIR}|${STEM}`, "gv");

const FILLER = /^[\u0640\u115f\u1160]$/;
const OPTIONAL_MARK = new RegExp(
  `^[[[\\p{Mn}\\p{Me}]&&[\\p{Script=Inherited}\\p{Script=Arabic}\\p{Script=Hebrew}\\p{Script=Syriac}\\u180b-\\u180f]]--[${VOICING}]]$`, "v",
);
const FORMAT = /^\p{Cf}$/u;
const IS_SPACELESS_LETTER = new RegExp(`^[${SPACELESS}&&\\p{L}]$`, "v");

const folds = new Map();

/** The plain form of a character; a letter of a script without spaces is doubled, with a space between. */
function fold(letter) {
  if (!folds.has(letter)) folds.set(letter, computeFold(letter));
  return folds.get(letter);
}

function computeFold(letter) {
  const decomposed = letter.normalize("NFKD");
  if (decomposed !== letter) return Array.from(decomposed, fold).join("");
  if (FORMAT.test(letter) || FILLER.test(letter) || OPTIONAL_MARK.test(letter)) return "";
  // By way of the capital, which folds ß and the final sigma as Unicode's case folding does.
  const lower = letter === "ı" ? letter : letter.toUpperCase().toLowerCase();
  if (lower !== letter) return Array.from(lower, fold).join("");
  return IS_SPACELESS_LETTER.test(letter) ? `${letter} ${letter}` : letter;
}

/** The words of a text in the form of the model's terms, each with the range of the text that it comes from. */
export function findWords(text) {
  let folded = "", place = 0;
  const starts = [], ends = [];
  for (const letter of text) {
    const plain = fold(letter);
    const end = place + letter.length;
    if (plain === "" && ends.length) ends[ends.length - 1] = end;
    for (let unit = 0; unit < plain.length; unit++) {
      starts.push(place);
      ends.push(end);
    }
    folded += plain;
    place = end;
  }
  return Array.from(folded.matchAll(TOKEN), (match) => ({
    word: match[0].normalize("NFC"),
    start: starts[match.index],
    end: ends[match.index + match[0].length - 1],
  }));
}

/**
 * Divide a text into pieces that belong to the same terms.
 *
 * @param {string} text
 * @param {Map<string, any>} shares by term, words or phrases of two words
 * @returns {{text: string, terms: string[], isWord: boolean}[]} terms: those with a share that cover the piece
 */
export function divide(text, shares) {
  const words = findWords(text), marks = [];
  words.forEach((word, i) => {
    const next = words[i + 1];
    const phrase = next && `${word.word} ${next.word}`;
    marks.push({ ...word, term: shares.has(word.word) ? word.word : null });
    if (shares.has(phrase)) marks.push({ start: word.start, end: next.end, term: phrase });
  });
  marks.sort((one, other) => one.start - other.start);
  const bounds = [...new Set([0, text.length, ...marks.flatMap(({ start, end }) => [start, end])])].sort((a, b) => a - b);
  let open = [], following = 0;
  return bounds.slice(0, -1).map((start, i) => {
    open = open.filter((mark) => mark.end > start);
    while (marks[following]?.start <= start) open.push(marks[following++]);
    return {
      text: text.slice(start, bounds[i + 1]),
      terms: open.flatMap(({ term }) => term ?? []),
      isWord: open.length > 0,
    };
  });
}
