// Streams what tests/test_clients.py asks for with Segment's own client for Node: node clients.mjs HOST < messages.json
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { readFileSync } from 'node:fs'

const { Analytics } = createRequire(join(process.cwd(), 'index.js'))('@segment/analytics-node')
const client = new Analytics({ writeKey: 'key', host: process.argv[2], maxRetries: 0 })
client.on('error', (error) => { throw new Error(JSON.stringify(error)) })
for (const { type, timestamp, ...message } of JSON.parse(readFileSync(0, 'utf8')))
  client[type]({ ...message, timestamp: new Date(timestamp) })
await client.closeAndFlush()
