// The AI SDK with the providers that people use besides DeepSeek's own: OpenAI, Anthropic, and any compatible server.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai';
import { ANSWER, MODEL, PARAMETERS, QUESTION, SERVER, WEATHER, watchedFetch } from './server.mjs';

globalThis.AI_SDK_LOG_WARNINGS = false;

const { traces, fetch } = watchedFetch();
const apiKey = 'sk-local';
const openai = createOpenAI({ baseURL: `${SERVER}/v1`, apiKey, fetch });

// What each does with a trace: sends it; or drops it, or names the item that has it, and gets it restored.
const SENT = 'sent=1 restored=0 missing=0';
const RESTORED = 'sent=0 restored=1 missing=0';
const models = {
  'openai, Responses': [openai(MODEL), RESTORED],
  'openai, chat': [openai.chat(MODEL), RESTORED],
  anthropic: [createAnthropic({ baseURL: `${SERVER}/anthropic/v1`, apiKey, fetch })(MODEL), SENT],
  compatible: [
    createOpenAICompatible({ name: 'local', baseURL: `${SERVER}/v1`, apiKey, fetch, supportsStructuredOutputs: true })(MODEL),
    SENT,
  ],
};

for (const [name, [model, expected]] of Object.entries(models)) {
  const asked = { model, prompt: QUESTION, temperature: 0, maxRetries: 0 };

  test(`${name}: a stream says what the whole answer says`, async () => {
    const whole = await generateText(asked);
    assert.equal(whole.finishReason, 'stop');
    const streamed = streamText(asked);
    let text = '';
    for await (const delta of streamed.textStream) text += delta;
    assert.equal(text, whole.text);
    assert.ok(text);
    assert.equal((await streamed.usage).outputTokens, whole.usage.outputTokens);
  });

  test(`${name}: an object follows its schema while the model thinks`, async () => {
    const properties = { city: { type: 'string' }, size: { enum: ['small', 'large'] } };
    const schema = jsonSchema({ type: 'object', properties, required: ['city', 'size'], additionalProperties: false });
    const { object } = await generateObject({ ...asked, schema, maxOutputTokens: 400 });
    assert.deepEqual(Object.keys(object), ['city', 'size']);
    assert.ok(['small', 'large'].includes(object.size));
  });

  for (const streams of [false, true]) {
    test(`${name}: a tool loop, ${streams ? 'streamed' : 'whole'}, loses no trace`, async () => {
      traces.length = 0;
      const weather = tool({
        description: 'Weather of a city',
        inputSchema: jsonSchema(PARAMETERS),
        execute: async () => WEATHER,
      });
      const request = { ...asked, tools: { get_weather: weather }, stopWhen: stepCountIs(3) };
      const result = streams ? streamText(request) : await generateText(request);
      assert.equal(await result.text, ANSWER);
      assert.equal((await result.steps).length, 2);
      assert.equal(traces[1], expected);
    });
  }
}
