/**
 * OSC 52, by which programs put text into the clipboard. Never the other way: what a visitor has copied elsewhere
 * is no program's business.
 */

/** Most that a program may copy, in characters of base64: what vim and tmux keep to. */
const MAX_BASE64 = 100_000;

/** The text that `data`, an OSC 52 without its number, asks to be copied; `null` if it asks for anything else. */
export function readCopy(data: string): string | null {
  const [targets, base64] = data.split(';', 2);
  if (targets === undefined || base64 === undefined || !/^[cps]*$/.test(targets)) return null;
  if (base64 === '' || base64 === '?' || base64.length > MAX_BASE64) return null;
  try {
    const bytes = Uint8Array.from(atob(base64), (unit) => unit.charCodeAt(0));
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    return null;
  }
}
