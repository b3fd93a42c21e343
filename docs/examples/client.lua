-- client.lua MOUNT: a hash, an AEAD, a device and an error by records. Lua 5.3 or later; it has neither ioctl nor poll.
-- C's stdio cuts records of more than 8,192 bytes, and glibc ignores the size of setvbuf: send such messages in parts.
local CONFIGURE, ENCRYPT, DECRYPT, DIGEST = 1, 16, 17, 18
local HEADER = '<I4BBI2I8I4I4'

local function attribute(type, value)
  return string.pack('<I2s2', type, value) .. ('\0'):rep(-#value & 3)
end

local function request(operation, attributes, payload)
  local size = 24 + #attributes + #payload
  return string.pack(HEADER, size, 1, operation, 0, 1, 0, #attributes) .. attributes .. payload
end

-- Status, message of an error, payload.
local function ask(file, operation, attributes, payload)
  assert(file:write(request(operation, attributes, payload)))
  assert(file:flush()) -- the buffer holds the record, so this is one write(2)
  file:seek('set') -- C's stdio wants it between a write and a read
  local size, _, _, _, _, status, length = string.unpack(HEADER, assert(file:read(24)))
  local rest = size > 24 and file:read(size - 24) or ''
  file:seek('set')
  local message = status ~= 0 and string.unpack('<s2', rest, 3) or ''
  return status, message, rest:sub(length + 1)
end

local function open(path)
  return assert(io.open(arg[1] .. '/' .. path, 'r+b'))
end

local function hex(bytes)
  return (bytes:gsub('.', function(byte) return ('%02x'):format(byte:byte()) end))
end

local hash, aead, mac = open('crypto'), open('crypto'), open('devices/mac/crypto')
ask(hash, CONFIGURE, attribute(1, 'hash') .. attribute(2, 'sha256'), '')
local _, _, digest = ask(hash, DIGEST, '', 'abc')
print('hash ' .. hex(digest))

local key = string.char(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
ask(aead, CONFIGURE, attribute(1, 'aead') .. attribute(2, 'gcm(aes)') .. attribute(3, key), '')
local iv = attribute(8, '123456789012') .. attribute(9, string.pack('<I4', 6))
local _, _, sealed = ask(aead, ENCRYPT, iv, 'headertext')
local _, _, text = ask(aead, DECRYPT, iv, 'header' .. sealed)
print('aead ' .. hex(sealed) .. '\nopened ' .. text)

local _, _, code = ask(mac, DIGEST, '', 'abc')
print('device ' .. hex(code))

local status, message = ask(aead, DECRYPT, iv, 'Header' .. sealed)
print(('error %d %s'):format(status, message))
