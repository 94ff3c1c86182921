// The three ways to run a command, streamed, waited for and in the background; and files.
import { Sandbox } from 'belljar';

const sb = await Sandbox.create({ template: 'base' });
try {
  // As it comes, standard error too, and any number at once.
  for await (const event of sb.commands.stream("echo 'Hello World'; echo 'oh' >&2")) {
    if (event.type === 'stdout' || event.type === 'stderr') process.stdout.write(event.text);
    if (event.type === 'exit') console.log(`ended with ${event.exitCode}`); // "ended with 0"
  }

  // One combined result.
  console.log((await sb.commands.run('uname -a')).stdout);

  // In the background, looked at later.
  const counting = await sb.commands.start('for n in 1 2 3; do echo $n; done');
  console.log(await counting.wait());
  console.log((await counting.read()).stdout); // "1\n2\n3\n"

  await sb.files.write('path/to/file', 'content');
  console.log(await sb.files.readText('path/to/file')); // "content"
  console.log(await sb.files.exists('path/to/file')); // "true"
} finally {
  await sb.kill();
}
