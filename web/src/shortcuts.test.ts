import { expect, it } from 'vitest';
import { shortcut } from './shortcuts.ts';

const press = (key: string, code: string, ...held: string[]) =>
  shortcut({
    key,
    code,
    ctrlKey: held.includes('ctrl'),
    shiftKey: held.includes('shift'),
    altKey: held.includes('alt'),
    metaKey: held.includes('meta'),
  });

it('few keys are not the program’s', () => {
  expect(press('F', 'KeyF', 'ctrl', 'shift')).toBe('find');
  expect(press('C', 'KeyC', 'ctrl', 'shift')).toBe('copy');
  expect(press('Enter', 'Enter', 'ctrl', 'shift')).toBe('leave');
  expect(press('+', 'Equal', 'ctrl', 'shift')).toBe('larger');
  expect(press('=', 'Equal', 'ctrl')).toBe('larger');
  expect(press('+', 'NumpadAdd', 'ctrl')).toBe('larger');
  expect(press('-', 'Minus', 'ctrl')).toBe('smaller');
  expect(press('0', 'Digit0', 'ctrl')).toBe('actual');
});

it('control characters, undo and everything without Ctrl are', () => {
  expect(press('f', 'KeyF', 'ctrl')).toBeNull();
  expect(press('c', 'KeyC', 'ctrl')).toBeNull();
  expect(press('_', 'Minus', 'ctrl', 'shift')).toBeNull();
  expect(press('Tab', 'Tab')).toBeNull();
  expect(press('Escape', 'Escape')).toBeNull();
  expect(press('Enter', 'Enter')).toBeNull();
  expect(press('-', 'Minus', 'meta')).toBeNull();
  expect(press('F', 'KeyF', 'ctrl', 'shift', 'alt')).toBeNull();
});
