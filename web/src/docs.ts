import 'rapidoc';

const page = document.querySelector('rapi-doc');
const dark = matchMedia('(prefers-color-scheme: dark)');

function paint(): void {
  page?.setAttribute('theme', dark.matches ? 'dark' : 'light');
}

paint();
dark.addEventListener('change', paint);
