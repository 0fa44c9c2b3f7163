package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	long := bytes.Repeat([]byte("x"), 2*MaxFrame+7)
	if _, err := w.Stream(Stdout).Write(long); err != nil {
		t.Fatal(err)
	}
	if err := w.Send(Exit, nil); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for {
		kind, p, err := Read(&b)
		if err != nil {
			t.Fatal(err)
		}
		if kind == Exit {
			break
		}
		if kind != Stdout {
			t.Fatalf("kind %q", kind)
		}
		got = append(got, p...)
	}
	if !bytes.Equal(got, long) {
		t.Errorf("%d bytes came back, %d were sent", len(got), len(long))
	}
	if _, _, err := Read(&b); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v, want EOF", err)
	}
}

func TestReadRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"too long": "o\xff\xff\xff\xff", "cut head": "o\x00", "cut payload": "o\x00\x00\x00\x05abc",
	} {
		if _, _, err := Read(bytes.NewReader([]byte(in))); err == nil || errors.Is(err, io.EOF) && name != "cut head" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := Read(bytes.NewReader([]byte("o\xff\xff\xff\xff"))); !errors.Is(err, ErrFrame) {
		t.Errorf("too long: %v, want ErrFrame", err)
	}
}
