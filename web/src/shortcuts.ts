/** The keys that the terminal keeps for itself. All others belong to the program. */

export type Shortcut = 'copy' | 'find' | 'larger' | 'smaller' | 'actual' | 'leave';

/** The part of `KeyboardEvent` that is used. */
export interface Key {
  readonly ctrlKey: boolean;
  readonly shiftKey: boolean;
  readonly altKey: boolean;
  readonly metaKey: boolean;
  readonly key: string;
  readonly code: string;
}

/**
 * Ctrl and a letter is a control character, so letters need Shift besides, as in other terminals. Tab is the
 * program's too, which is why there must be another way out for people without a mouse (WCAG 2.1.2).
 */
export function shortcut({ ctrlKey, shiftKey, altKey, metaKey, key, code }: Key): Shortcut | null {
  if (!ctrlKey || altKey || metaKey) return null;
  if (shiftKey && code === 'KeyC') return 'copy';
  if (shiftKey && code === 'KeyF') return 'find';
  if (shiftKey && key === 'Enter') return 'leave';
  // `+` needs Shift on some keyboards, `=` is the same key without it.
  if (key === '+' || key === '=') return 'larger';
  // With Shift it is Ctrl-_, which readline knows as undo.
  if (key === '-' && !shiftKey) return 'smaller';
  return key === '0' && !shiftKey ? 'actual' : null;
}
