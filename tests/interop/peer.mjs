// A JavaScript peer driven line by line: one JSON request {"id", "verb", ...} on stdin, one answer {"id", "ok" | "error"} on
// stdout, and {"event", ...} lines of its own. Byte strings are hex. It ends when stdin does.
import crypto from 'node:crypto'
import net from 'node:net'
import readline from 'node:readline'
import c from 'compact-encoding'
import Protomux from 'protomux'
import SecretStream from '@hyperswarm/secret-stream'

const channels = new Map()
let stream = null
let mux = null
let collecting = null // { left, hash, resolve } while bulk data comes in

const emit = (event, fields = {}) => process.stdout.write(JSON.stringify({ event, ...fields }) + '\n')
const hex = (buffer) => (buffer ? Buffer.from(buffer).toString('hex') : null)
const bytes = (text) => (text == null ? null : Buffer.from(text, 'hex'))

function start (socket, isInitiator, { keepAlive = 0, seed, withMux = false }) {
  stream = new SecretStream(isInitiator, socket, { keepAlive, keyPair: SecretStream.keyPair(bytes(seed) ?? undefined) })
  stream.on('error', (error) => emit('error', { message: error.message }))
  stream.on('close', () => emit('closed'))
  stream.on('connect', () =>
    emit('connected', {
      publicKey: hex(stream.publicKey),
      remotePublicKey: hex(stream.remotePublicKey),
      handshakeHash: hex(stream.handshakeHash),
      isInitiator
    })
  )
  if (withMux) {
    mux = new Protomux(stream)
    return
  }
  stream.on('data', ondata)
  stream.on('end', () => emit('end'))
}

function ondata (data) {
  if (collecting === null) {
    emit('data', { hex: hex(data) })
    return
  }
  collecting.hash.update(data)
  collecting.left -= data.byteLength
  if (collecting.left <= 0) {
    collecting.resolve({ sha256: collecting.hash.digest('hex') })
    collecting = null
  }
}

async function sendBulk ({ count, size }) {
  const hash = crypto.createHash('sha256')
  for (let i = 0; i < count; i++) {
    const message = Buffer.alloc(size, i % 251)
    message.writeUInt32LE(i, 0)
    hash.update(message)
    if (!stream.write(message)) await new Promise((resolve) => stream.once('drain', resolve))
  }
  return { sha256: hash.digest('hex') }
}

function createChannel ({ name, protocol, channelId = null, aliases = [] }) {
  const message = (type) => ({ encoding: c.raw, onmessage: (body) => emit('message', { name, type, hex: hex(body) }) })
  const channel = mux.createChannel({
    protocol,
    id: bytes(channelId),
    aliases,
    handshake: c.raw,
    messages: [message(0), message(1)],
    onopen: (handshake) => emit('open', { name, handshake: hex(handshake) }),
    onclose: (remote) => emit('channelClosed', { name, remote })
  })
  if (channel === null) return false
  channels.set(name, channel)
  return true
}

const verbs = {
  listen: (options) =>
    new Promise((resolve) => {
      const server = net.createServer((socket) => {
        server.close()
        start(socket, false, options)
      })
      server.listen(0, '127.0.0.1', () => resolve({ port: server.address().port }))
    }),
  connect: (options) => start(net.connect(options.port, '127.0.0.1'), true, options),
  write: ({ data }) => stream.write(bytes(data)),
  end: () => stream.end(),
  sendBulk,
  receiveBulk: ({ size }) =>
    new Promise((resolve) => {
      collecting = { left: size, hash: crypto.createHash('sha256'), resolve }
    }),
  pair: ({ name, protocol, handshake = '' }) =>
    mux.pair({ protocol }, (id) => {
      emit('notify', { protocol, channelId: hex(id) })
      createChannel({ name, protocol, channelId: hex(id) })
      channels.get(name).open(bytes(handshake))
    }),
  createChannel,
  open: ({ name, handshake = '' }) => channels.get(name).open(bytes(handshake)),
  send: ({ name, type, data }) => channels.get(name).messages[type].send(bytes(data)),
  close: ({ name }) => channels.get(name).close(),
  cork: () => mux.cork(),
  uncork: () => mux.uncork(),
  destroy: () => stream.destroy()
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { id, verb, ...options } = JSON.parse(line)
  Promise.resolve()
    .then(() => verbs[verb](options))
    .then((ok) => process.stdout.write(JSON.stringify({ id, ok: ok ?? null }) + '\n'))
    .catch((error) => process.stdout.write(JSON.stringify({ id, error: error.message }) + '\n'))
}
process.exit(0)
