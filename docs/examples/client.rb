# client.rb MOUNT: a hash, an AEAD, a device and an error by records, select and ioctl.
CONFIGURE, ENCRYPT, DECRYPT, DIGEST = 1, 16, 17, 18
HEADER = 'L<CCS<Q<L<L<'

def attribute(type, value)
  [type, value.bytesize].pack('S<S<') + value.b + "\0" * (-value.bytesize & 3)
end

def request(operation, attributes, payload)
  size = 24 + attributes.bytesize + payload.bytesize
  [size, 1, operation, 0, 1, 0, attributes.bytesize].pack(HEADER) + attributes + payload.b
end

Answer = Struct.new(:status, :message, :payload) do
  def self.parse(record)
    size, _, _, _, _, status, attributes = record.unpack(HEADER)
    message = status.zero? ? '' : record.byteslice(28, record.unpack1('@26S<'))
    new(status, message, record.byteslice(24 + attributes, size - 24 - attributes))
  end

  def to_s
    payload.unpack1('H*')
  end
end

def ask(file, operation, attributes, payload)
  file.syswrite(request(operation, attributes, payload)) # one write(2)
  file.wait_readable # or IO.select for several; do something else meanwhile
  begin
    Answer.parse(file.sysread(65_536))
  rescue Errno::EINTR
    retry
  end
end

require 'io/wait'
hash, aead, mac = %w[crypto crypto devices/mac/crypto].map { |path| File.open("#{ARGV[0]}/#{path}", 'r+b') }
ask(hash, CONFIGURE, attribute(1, 'hash') + attribute(2, 'sha256'), '')
puts "hash #{ask(hash, DIGEST, '', 'abc')}"

key = (0..15).to_a.pack('C*')
ask(aead, CONFIGURE, attribute(1, 'aead') + attribute(2, 'gcm(aes)') + attribute(3, key), '')
iv = attribute(8, '123456789012') + attribute(9, [6].pack('L<'))
sealed = ask(aead, ENCRYPT, iv, 'headertext')
puts "aead #{sealed}"
puts "opened #{ask(aead, DECRYPT, iv, 'header' + sealed.payload).payload}"

puts "device #{ask(mac, DIGEST, '', 'abc')}"

wrong = ask(aead, DECRYPT, iv, 'Header' + sealed.payload)
puts "error #{wrong.status} #{wrong.message}"

buffer = request(DIGEST, '', 'abc').ljust(1024, "\0")
hash.ioctl(0xC00063C0 | buffer.bytesize << 16, buffer) # _IOWR('c', 0xC0, buffer)
puts "ioctl #{Answer.parse(buffer)}"
