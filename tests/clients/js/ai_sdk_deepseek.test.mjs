// The AI SDK with its own DeepSeek provider: `ai` and `@ai-sdk/deepseek`.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createDeepSeek } from '@ai-sdk/deepseek';
import { APICallError, generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai';
import { ANSWER, MODEL, PARAMETERS, QUESTION, SERVER, WEATHER, watchedFetch } from './server.mjs';

globalThis.AI_SDK_LOG_WARNINGS = false;

const { traces, fetch } = watchedFetch();
const model = createDeepSeek({ baseURL: SERVER, apiKey: 'sk-local', fetch })(MODEL);
// While the model thinks, this provider sends no temperature.
const asked = { model, prompt: QUESTION, maxRetries: 0 };
const steady = { ...asked, temperature: 0, providerOptions: { deepseek: { thinking: { type: 'disabled' } } } };

function weatherTool(cities) {
  return tool({
    description: 'Weather of a city',
    inputSchema: jsonSchema(PARAMETERS),
    execute: async ({ city }) => {
      cities.push(city);
      return WEATHER;
    },
  });
}

test('a stream says what the whole answer says', async () => {
  const whole = await generateText(steady);
  assert.equal(whole.finishReason, 'stop');
  assert.equal(whole.reasoningText, undefined);
  const streamed = streamText(steady);
  let text = '';
  for await (const delta of streamed.textStream) text += delta;
  assert.equal(text, whole.text);
  const usage = await streamed.usage;
  assert.equal(usage.outputTokens, whole.usage.outputTokens);
  assert.equal(usage.inputTokens, whole.usage.inputTokens);
  // The second time the prompt is in the prefix cache, and the provider reads that from DeepSeek's own fields.
  assert.ok(usage.inputTokenDetails.cacheReadTokens > 0);
});

test('a trace is told, whole and streamed', async () => {
  const whole = await generateText(asked);
  assert.ok(whole.reasoningText);
  assert.ok(whole.usage.outputTokenDetails.reasoningTokens > 0);
  const kinds = new Set();
  for await (const part of streamText(asked).fullStream) kinds.add(part.type);
  for (const kind of ['reasoning-start', 'reasoning-delta', 'reasoning-end', 'text-delta', 'finish']) {
    assert.ok(kinds.has(kind), kind);
  }
});

for (const streams of [false, true]) {
  test(`a tool loop, ${streams ? 'streamed' : 'whole'}, loses no trace`, async () => {
    traces.length = 0;
    const cities = [];
    const request = { ...asked, tools: { get_weather: weatherTool(cities) }, stopWhen: stepCountIs(3) };
    const result = streams ? streamText(request) : await generateText(request);
    assert.equal(await result.text, ANSWER);
    assert.equal((await result.steps).length, 2);
    assert.deepEqual(cities, ['Paris']);
    assert.equal(traces.length, 2);
    assert.match(traces[1], /missing=0$/);
    assert.doesNotMatch(traces[1], /^sent=0 restored=0/);
  });
}

test("an error carries the server's message", async () => {
  await assert.rejects(generateText({ ...steady, temperature: 3 }), (error) => {
    assert.ok(APICallError.isInstance(error));
    assert.equal(error.statusCode, 400);
    assert.match(error.message, /temperature/);
    return true;
  });
});
