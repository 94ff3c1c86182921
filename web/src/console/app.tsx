import { Mark } from '../mark.tsx';
import { Confirm } from './confirm.tsx';
import { Create } from './create.tsx';
import { about } from './format.ts';
import { List } from './list.tsx';
import { Login } from './login.tsx';
import { Numbers } from './numbers.tsx';
import { SandboxView } from './sandbox.tsx';
import { api, asking, leave, overview, said, trouble, view } from './state.ts';
import { WatchView } from './watch.tsx';

export function App() {
  if (api.value === null) {
    return asking.value ? <p class="asking">Asking the gateway…</p> : <Login />;
  }
  return (
    <>
      <Header />
      <main>
        <p class="trouble" role="alert">
          {trouble.value !== '' && `${trouble.value} What is shown may be old; it is tried again.`}
        </p>
        <p class="said" role="status">
          {said.value}
        </p>
        <Content />
      </main>
      <Confirm />
    </>
  );
}

function Content() {
  const at = view.value;
  // A view of its own for each id.
  if (at.name === 'sandbox') return <SandboxView key={at.id} id={at.id} />;
  if (at.name === 'watch') return <WatchView key={at.id} id={at.id} />;
  return (
    <>
      <Numbers />
      <Create />
      <List />
    </>
  );
}

function Header() {
  const numbers = overview.value;
  const key = api.value?.key ?? null;
  return (
    <header>
      <a class="brand" href="#list">
        <Mark />
        <h1>
          Belljar <span>console</span>
        </h1>
      </a>
      {numbers !== null && (
        <p class="about">
          {numbers.version}, up {about(numbers.uptimeMs)}
          {numbers.sealed === false && <strong class="unsealed">Development mode: not sealed</strong>}
        </p>
      )}
      {key !== null && (
        <button type="button" onClick={() => leave()}>
          Forget the key
        </button>
      )}
    </header>
  );
}
