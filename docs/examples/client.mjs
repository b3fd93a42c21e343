// client.mjs MOUNT: a hash, an AEAD, a device and an error by records. Node has neither ioctl nor poll for files. If
// the program must not wait, use the functions of fs/promises instead of these.
import fs from 'node:fs'

const CONFIGURE = 1, ENCRYPT = 16, DECRYPT = 17, DIGEST = 18

function attribute(type, value) {
  const bytes = Buffer.from(value)
  const made = Buffer.alloc(4 + bytes.length + (-bytes.length & 3))
  made.writeUInt16LE(type)
  made.writeUInt16LE(bytes.length, 2)
  bytes.copy(made, 4)
  return made
}

function request(operation, attributes, payload) {
  const body = Buffer.concat([...attributes, payload])
  const header = Buffer.alloc(24)
  header.writeUInt32LE(24 + body.length)
  header.writeUInt8(1, 4)
  header.writeUInt8(operation, 5)
  header.writeBigUInt64LE(1n, 8) // the id
  header.writeUInt32LE(body.length - payload.length, 20)
  return Buffer.concat([header, body])
}

function ask(file, operation, attributes, payload) {
  fs.writeSync(file, request(operation, attributes, Buffer.from(payload)))
  const answer = Buffer.alloc(65536)
  const size = fs.readSync(file, answer)
  const end = 24 + answer.readUInt32LE(20)
  const status = answer.readUInt32LE(16)
  const message = status ? answer.toString('latin1', 28, 28 + answer.readUInt16LE(26)) : ''
  return { status, message, payload: answer.subarray(end, size) }
}

const mount = process.argv[2]
const open = (path) => fs.openSync(`${mount}/${path}`, 'r+')
const [hash, aead, mac] = [open('crypto'), open('crypto'), open('devices/mac/crypto')]
ask(hash, CONFIGURE, [attribute(1, 'hash'), attribute(2, 'sha256')], '')
console.log('hash', ask(hash, DIGEST, [], 'abc').payload.toString('hex'))

const key = Buffer.from([...Array(16).keys()])
ask(aead, CONFIGURE, [attribute(1, 'aead'), attribute(2, 'gcm(aes)'), attribute(3, key)], '')
const iv = [attribute(8, '123456789012'), attribute(9, [6, 0, 0, 0])]
const sealed = ask(aead, ENCRYPT, iv, 'headertext').payload
console.log('aead', sealed.toString('hex'))
console.log('opened', ask(aead, DECRYPT, iv, Buffer.concat([Buffer.from('header'), sealed])).payload.toString())

console.log('device', ask(mac, DIGEST, [], 'abc').payload.toString('hex'))

const wrong = ask(aead, DECRYPT, iv, Buffer.concat([Buffer.from('Header'), sealed]))
console.log('error', wrong.status, wrong.message)
for (const file of [hash, aead, mac]) fs.closeSync(file)
