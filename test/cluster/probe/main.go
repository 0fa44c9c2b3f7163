// Command probe makes and answers traffic in the pods of the test cluster.
//
//	probe serve PORT            answer TCP with the host's name, echo UDP
//	probe tcp ADDR:PORT         print what a server of serve answers
//	probe flood ADDR:PORT FILE  send numbered datagrams, 50 a second, until FILE is
//	                            there, then print how many were sent and lost
package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

const (
	interval = 20 * time.Millisecond
	patience = 10 * time.Second // for answers that are late: machines are emulated
)

func main() {
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 2 && args[0] == "serve":
		err = serve(":" + args[1])
	case len(args) == 2 && args[0] == "tcp":
		err = ask(args[1])
	case len(args) == 3 && args[0] == "flood":
		err = flood(args[1], args[2])
	default:
		fmt.Fprintln(os.Stderr, "usage: probe serve PORT | tcp ADDR:PORT | flood ADDR:PORT FILE")
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func serve(at string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	packets, err := net.ListenPacket("udp", at)
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, 1500)
		for {
			if n, from, err := packets.ReadFrom(b); err == nil {
				_, _ = packets.WriteTo(b[:n], from)
			}
		}
	}()
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		fmt.Fprintln(conn, host)
		conn.Close()
	}
}

func ask(at string) error {
	conn, err := net.DialTimeout("tcp", at, 3*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, err = io.Copy(os.Stdout, conn)
	return err
}

func flood(to, until string) error {
	conn, err := net.Dial("udp", to)
	if err != nil {
		return err
	}
	var came atomic.Uint64
	go count(conn, &came)
	var sent uint64
	b := make([]byte, 8)
	for range time.Tick(interval) {
		if _, err := os.Stat(until); err == nil {
			break
		}
		binary.BigEndian.PutUint64(b, sent)
		if _, err := conn.Write(b); err != nil {
			fmt.Println(err) // "connection refused" of an earlier one; it counts as sent
		}
		sent++
	}
	for end := time.Now().Add(patience); came.Load() < sent && time.Now().Before(end); {
		time.Sleep(interval)
	}
	fmt.Printf("sent %d lost %d\n", sent, sent-came.Load())
	return nil
}

// count counts the numbers that come back, each once.
func count(conn net.Conn, came *atomic.Uint64) {
	seen := map[uint64]bool{}
	b := make([]byte, 1500)
	for {
		n, err := conn.Read(b)
		if err != nil || n != 8 {
			continue
		}
		if i := binary.BigEndian.Uint64(b); !seen[i] {
			seen[i] = true
			came.Add(1)
		}
	}
}
