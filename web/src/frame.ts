/** The page at `/embed`: one terminal and nothing else, for a frame in somebody's page. */
import { define } from './define.ts';
import { heedParent } from './parent.ts';
import { readQuery } from './query.ts';

const terminal = document.querySelector('belljar-terminal');
if (terminal !== null) {
  for (const [name, value] of readQuery(location.search)) terminal.setAttribute(name, value);
  // Behind the fragment, which no browser sends anywhere: a token in the query would stand in logs.
  const token = new URLSearchParams(location.hash.slice(1)).get('token');
  if (token !== null) terminal.setAttribute('token', token);
  define(null);
  heedParent(terminal);
}
