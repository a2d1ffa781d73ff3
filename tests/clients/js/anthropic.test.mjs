// The unmodified `@anthropic-ai/sdk` package.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import Anthropic, { BadRequestError } from '@anthropic-ai/sdk';
import { ANSWER, MODEL, PARAMETERS, QUESTION, SERVER, WEATHER, watchedFetch } from './server.mjs';

const asked = { model: MODEL, max_tokens: 512, temperature: 0, messages: [{ role: 'user', content: QUESTION }] };
const tool = { name: 'get_weather', description: 'Weather of a city', input_schema: PARAMETERS };
const { traces, fetch } = watchedFetch();
const client = new Anthropic({ baseURL: `${SERVER}/anthropic`, apiKey: 'sk-local', maxRetries: 0, fetch });

const kinds = (message) => message.content.map((block) => block.type);
const textOf = (message) => message.content.findLast((block) => block.type === 'text').text;

test('a stream says what the whole answer says', async () => {
  const whole = await client.messages.create(asked);
  assert.deepEqual(kinds(whole), ['thinking', 'text']);
  assert.ok(whole.content[0].signature);
  const stream = client.messages.stream(asked);
  const deltas = [];
  stream.on('text', (delta) => deltas.push(delta));
  const streamed = await stream.finalMessage();
  assert.deepEqual(kinds(streamed), kinds(whole));
  assert.equal(streamed.content[0].thinking, whole.content[0].thinking);
  assert.equal(deltas.join(''), textOf(whole));
  assert.equal(streamed.usage.output_tokens, whole.usage.output_tokens);
  assert.equal(streamed.stop_reason, 'end_turn');
});

test('thinking can be switched off', async () => {
  assert.deepEqual(kinds(await client.messages.create({ ...asked, thinking: { type: 'disabled' } })), ['text']);
});

for (const streams of [false, true]) {
  for (const keepsTrace of [true, false]) {
    test(`a tool loop, ${streams ? 'streamed' : 'whole'}, ${keepsTrace ? 'with' : 'without'} the trace`, async () => {
      traces.length = 0;
      const ask = async (messages) => {
        const request = { ...asked, messages, tools: [tool] };
        return streams ? await client.messages.stream(request).finalMessage() : await client.messages.create(request);
      };
      const first = await ask(asked.messages);
      assert.equal(first.stop_reason, 'tool_use');
      const call = first.content.find((block) => block.type === 'tool_use');
      assert.deepEqual(call.input, { city: 'Paris' });
      const second = await ask([
        ...asked.messages,
        { role: 'assistant', content: first.content.filter((block) => keepsTrace || block.type !== 'thinking') },
        { role: 'user', content: [{ type: 'tool_result', tool_use_id: call.id, content: WEATHER }] },
      ]);
      assert.equal(textOf(second), ANSWER);
      assert.equal(traces[1], keepsTrace ? 'sent=1 restored=0 missing=0' : 'sent=0 restored=1 missing=0');
    });
  }
}

test("the SDK's own tool runner", async () => {
  traces.length = 0;
  const cities = [];
  const run = ({ city }) => {
    cities.push(city);
    return WEATHER;
  };
  const last = await client.beta.messages.toolRunner({ ...asked, tools: [{ ...tool, run, parse: (input) => input }] });
  assert.equal(textOf(last), ANSWER);
  assert.deepEqual(cities, ['Paris']);
  assert.equal(traces.at(-1), 'sent=1 restored=0 missing=0');
});

test('the count is what is billed', async () => {
  const { max_tokens, temperature, ...counted } = { ...asked, tools: [tool], system: 'Be brief.' };
  const { input_tokens: count } = await client.messages.countTokens(counted);
  const { usage } = await client.messages.create({ ...counted, max_tokens, temperature });
  assert.equal(count, usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens);
});

test("errors are the SDK's own", async () => {
  await assert.rejects(client.messages.create({ ...asked, temperature: 3 }), (error) => {
    assert.ok(error instanceof BadRequestError);
    assert.equal(error.error.error.param, 'temperature');
    assert.ok(error.requestID);
    return true;
  });
});

test('models', async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.ok(names.includes(MODEL));
});
