// Eight tasks with a hundred digests each, compared with Go's own.
package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// a sockaddr_alg: family, type[14], feat, mask, name[64]
func address(kind, name string) [88]byte {
	var result [88]byte
	result[0] = 38
	copy(result[2:16], kind)
	copy(result[24:], name)
	return result
}

func digest(text []byte) []byte {
	bound, err := syscall.Socket(38, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	defer syscall.Close(bound)
	name := address("hash", "sha256")
	_, _, number := syscall.Syscall(syscall.SYS_BIND, uintptr(bound), uintptr(unsafe.Pointer(&name)), unsafe.Sizeof(name))
	if number != 0 {
		panic(number)
	}
	operation, _, number := syscall.Syscall6(syscall.SYS_ACCEPT4, uintptr(bound), 0, 0, 0, 0, 0)
	if number != 0 {
		panic(number)
	}
	defer syscall.Close(int(operation))
	if _, err = syscall.Write(int(operation), text); err != nil {
		panic(err)
	}
	result := make([]byte, 32)
	if count, err := syscall.Read(int(operation), result); err != nil || count != 32 {
		panic(err)
	}
	return result
}

func main() {
	var right, wrong int64
	var tasks sync.WaitGroup
	for task := 0; task < 8; task++ {
		tasks.Add(1)
		go func(task int) {
			defer tasks.Done()
			for round := 0; round < 100; round++ {
				text := bytes.Repeat([]byte{byte(task)}, round*100)
				expected := sha256.Sum256(text)
				if bytes.Equal(digest(text), expected[:]) {
					atomic.AddInt64(&right, 1)
				} else {
					atomic.AddInt64(&wrong, 1)
				}
			}
		}(task)
	}
	tasks.Wait()
	fmt.Printf("%d right, %d wrong\n", right, wrong)
	if wrong > 0 {
		os.Exit(1)
	}
}
