/** The bell jar, as every page has it at its head. */
export function Mark() {
  return (
    <svg viewBox="0 0 24 24" aria-hidden="true">
      <circle cx="12" cy="2.7" r="1.2" />
      <path d="M5 20v-9a7 7 0 0 1 14 0v9" />
      <path class="base" d="M2 21h20" />
      <path class="prompt" d="m9.3 11.5 2.7 2.5-2.7 2.5" />
    </svg>
  );
}
