// java Client.java MOUNT: a hash, an AEAD, a device and an error by records. Java has neither ioctl nor poll for files:
// let a thread wait in read instead.
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.HexFormat;

class Client {
    static final int CONFIGURE = 1, ENCRYPT = 16, DECRYPT = 17, DIGEST = 18;
    static byte[] join(byte[]... parts) {
        var whole = ByteBuffer.allocate(java.util.Arrays.stream(parts).mapToInt(part -> part.length).sum());
        for (var part : parts) whole.put(part);
        return whole.array();
    }
    static byte[] bytes(String text) { return text.getBytes(); }
    static ByteBuffer buffer(int size) {
        return ByteBuffer.allocate(size).order(ByteOrder.LITTLE_ENDIAN);
    }

    static byte[] attribute(int type, byte[] value) {
        var made = buffer(4 + (value.length + 3 & ~3)).putShort((short) type).putShort((short) value.length);
        return made.put(value).array();
    }

    record Answer(int status, String message, byte[] payload) {
        public String toString() { return HexFormat.of().formatHex(payload); }
    }

    static Answer ask(RandomAccessFile file, int operation, byte[] attributes, byte[] payload) throws IOException {
        var head = buffer(24).putInt(24 + attributes.length + payload.length).put((byte) 1).put((byte) operation);
        head.putLong(8, 1).putInt(20, attributes.length); // the id, and the attributes' size
        file.write(join(head.array(), attributes, payload)); // one write(2)
        var answer = buffer(65536);
        int size = file.read(answer.array());
        int end = 24 + answer.getInt(20), status = answer.getInt(16);
        var message = status == 0 ? "" : new String(answer.array(), 28, answer.getShort(26));
        return new Answer(status, message, java.util.Arrays.copyOfRange(answer.array(), end, size));
    }

    public static void main(String[] arguments) throws IOException {
        try (var hash = new RandomAccessFile(arguments[0] + "/crypto", "rw");
             var aead = new RandomAccessFile(arguments[0] + "/crypto", "rw");
             var mac = new RandomAccessFile(arguments[0] + "/devices/mac/crypto", "rw")) {
            byte[] none = {}, abc = bytes("abc");
            var key = attribute(3, HexFormat.of().parseHex("000102030405060708090a0b0c0d0e0f"));
            ask(hash, CONFIGURE, join(attribute(1, bytes("hash")), attribute(2, bytes("sha256"))), none);
            System.out.println("hash " + ask(hash, DIGEST, none, abc));
            ask(aead, CONFIGURE, join(attribute(1, bytes("aead")), attribute(2, bytes("gcm(aes)")), key), none);
            var iv = join(attribute(8, bytes("123456789012")), attribute(9, new byte[] {6, 0, 0, 0}));
            var sealed = ask(aead, ENCRYPT, iv, bytes("headertext"));
            System.out.println("aead " + sealed);
            var text = ask(aead, DECRYPT, iv, join(bytes("header"), sealed.payload));
            System.out.println("opened " + new String(text.payload));
            System.out.println("device " + ask(mac, DIGEST, none, abc));
            var wrong = ask(aead, DECRYPT, iv, join(bytes("Header"), sealed.payload));
            System.out.println("error " + wrong.status + " " + wrong.message);
        }
    }
}
