// client MOUNT: a hash, an AEAD, a device and an error by records, and the ioctl.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

const configure, encrypt, decrypt, digest = 1, 16, 17, 18

var little = binary.LittleEndian

func attribute(kind int, value string) string {
	head := little.AppendUint16(little.AppendUint16(nil, uint16(kind)), uint16(len(value)))
	return string(head) + value + "\x00\x00\x00"[:-len(value)&3]
}
func request(operation byte, attributes string, payload string) []byte {
	header := make([]byte, 24) // size, version, operation, flags, id, status, size of the attributes
	little.PutUint32(header, uint32(24+len(attributes)+len(payload)))
	header[4], header[5], header[8] = 1, operation, 1
	little.PutUint32(header[20:], uint32(len(attributes)))
	return append(header, attributes+payload...)
}
func ask(file *os.File, operation byte, attributes string, payload string) (uint32, string, string) {
	must(file.Write(request(operation, attributes, payload))) // one write(2)
	answer := make([]byte, 65536)
	got := must(file.Read(answer)) // Go repeats it after a signal
	end := 24 + little.Uint32(answer[20:])
	return little.Uint32(answer[16:]), string(answer[24:end]), string(answer[end:got])
}
func must[Result any](result Result, err error) Result {
	if err != nil {
		panic(err)
	}
	return result
}
func open(path string) *os.File { return must(os.OpenFile(os.Args[1]+path, os.O_RDWR, 0)) }
func main() {
	hash, aead, mac := open("/crypto"), open("/crypto"), open("/devices/mac/crypto")
	ask(hash, configure, attribute(1, "hash")+attribute(2, "sha256"), "")
	_, _, sum := ask(hash, digest, "", "abc")
	key := attribute(3, "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f")
	ask(aead, configure, attribute(1, "aead")+attribute(2, "gcm(aes)")+key, "")
	iv := attribute(8, "123456789012") + attribute(9, "\x06\x00\x00\x00")
	_, _, sealed := ask(aead, encrypt, iv, "headertext")
	_, _, text := ask(aead, decrypt, iv, "header"+sealed)
	_, _, code := ask(mac, digest, "", "abc")
	fmt.Printf("hash %x\naead %x\nopened %s\ndevice %x\n", sum, sealed, text, code)
	status, message, _ := ask(aead, decrypt, iv, "Header"+sealed)
	fmt.Printf("error %d %s\n", status, message[4:4+int(message[2])])
	buffer := append(request(digest, "", "abc"), make([]byte, 997)...)
	number := uintptr(0xC00063C0 | len(buffer)<<16) // _IOWR('c', 0xC0, buffer)
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, hash.Fd(), number, uintptr(unsafe.Pointer(&buffer[0]))); e != 0 {
		panic(e)
	}
	fmt.Printf("ioctl %x\n", buffer[24:little.Uint32(buffer)])
}
