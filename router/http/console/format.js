// Numbers for people, with their units. Pure.

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1, minimumFractionDigits: 1 });

/** 12,345 */
export const count = (n) => whole.format(n);

/** "1 passage", "2 passages"; "2 queries" where `many` says so. */
export const counted = (n, noun, many = `${noun}s`) => `${count(n)} ${n === 1 ? noun : many}`;

/** 100 %, 99.98 %; never rounded up to a whole that it isn't. */
export function percent(share) {
  if (share >= 1) return "100 %";
  const hundredths = Math.floor(share * 10000) / 100;
  return `${hundredths.toFixed(hundredths < 10 || hundredths > 99 ? 2 : 1)} %`;
}

/** 0.03 ms, 4.2 ms, 118 ms, 2.4 s */
export function duration(ms) {
  if (ms >= 9999.5) return `${one.format(ms / 1000)} s`;
  if (ms >= 999.5) return `${(ms / 1000).toFixed(2)} s`;
  if (ms >= 99.5) return `${whole.format(ms)} ms`;
  return ms >= 0.995 ? `${one.format(ms)} ms` : `${ms.toFixed(2)} ms`;
}

/** 0 queries/s, 3.2 queries/s, 1,240 queries/s */
export const rate = (perSecond) =>
  `${perSecond > 0 && perSecond < 9.95 ? one.format(perSecond) : count(perSecond)} queries/s`;

/** A score: as many digits as tell neighbours apart. */
export const score = (value) => value.toFixed(Math.abs(value) >= 100 ? 2 : 4);

/** "just now", "42 s ago", "12 min ago" */
export function ago(seconds) {
  if (seconds < 2) return "just now";
  return seconds < 90 ? `${whole.format(seconds)} s ago` : `${whole.format(seconds / 60)} min ago`;
}

/** A moment in the reader's own time. */
export const moment = (unixSeconds) =>
  new Date(unixSeconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
