package main

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
)

func TestParseFrame(t *testing.T) {
	const macs = "ffffffffffff005056aabb01"
	for _, c := range []struct {
		name, frame string
		tagged      bool
		tpid, tci   uint16
		tags        string
		vlan, typ   int
	}{
		{"untagged ARP", macs + "0806" + "0001", false, 0, 0, "", 0, 0x0806},
		{"tag aside", macs + "0800" + "4500", true, 0x8100, 0xe064, "8100:100", 100, 0x0800},
		{"two tags in the frame", macs + "8100" + "0064" + "8100" + "00c8" + "0800", false, 0, 0, "8100:100+8100:200", 100, 0x0800},
		{"tag aside and inside", macs + "8100" + "00c8" + "86dd", true, 0x88a8, 100, "88a8:100+8100:200", 100, 0x86dd},
		{"cut tag", macs + "8100", false, 0, 0, "", 0, 0x8100},
	} {
		b, err := hex.DecodeString(c.frame)
		if err != nil {
			t.Fatal(err)
		}
		f := parseFrame(b, c.tpid, c.tci, c.tagged)
		if strings.Join(f.tags, "+") != c.tags || f.vlan != c.vlan || f.ethType != c.typ || f.src != "00:50:56:aa:bb:01" {
			t.Errorf("%s: %+v", c.name, f)
		}
	}
}

func TestFilter(t *testing.T) {
	f, err := parseFilter("src=00:50:56:AA:BB:01,type=0x0806,vlan=100")
	if err != nil {
		t.Fatal(err)
	}
	x := frame{src: "00:50:56:aa:bb:01", ethType: 0x0806, vlan: 100}
	if !f.match(x) {
		t.Errorf("%+v does not match %+v", f, x)
	}
	for name, y := range map[string]frame{
		"source": {src: "00:50:56:aa:bb:02", ethType: 0x0806, vlan: 100},
		"type":   {src: x.src, ethType: 0x0800, vlan: 100},
		"vlan":   {src: x.src, ethType: 0x0806},
	} {
		if f.match(y) {
			t.Errorf("other %s matches", name)
		}
	}
	for _, bad := range []string{"src=x", "type=hello", "vlan=5000", "colour=red"} {
		if _, err := parseFilter(bad); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestArguments(t *testing.T) {
	for _, c := range []struct {
		args, usage string
		ok          bool
	}{
		{"10.0.0.1 3", "ping ADDR COUNT [TIMEOUT_MS]", true},
		{"fd00::1 3 500", "ping ADDR COUNT [TIMEOUT_MS]", true},
		{"10.0.0.1", "ping ADDR COUNT [TIMEOUT_MS]", false},
		{"10.0.0.1 3 500 7", "ping ADDR COUNT [TIMEOUT_MS]", false},
		{"host 3", "ping ADDR COUNT [TIMEOUT_MS]", false},
		{"10.0.0.1 many", "ping ADDR COUNT [TIMEOUT_MS]", false},
		{"10.0.0.1 -1", "ping ADDR COUNT [TIMEOUT_MS]", false},
	} {
		_, n, err := arguments(strings.Fields(c.args), c.usage, 1, 1000)
		if (err == nil) != c.ok {
			t.Errorf("%q: %v, want ok %v", c.args, err, c.ok)
		}
		if c.ok && n[0] != 3 {
			t.Errorf("%q: %v", c.args, n)
		}
	}
}

func TestSink(t *testing.T) {
	s := &sink{}
	for _, n := range []uint64{0, 1, 3, 3, 70, maxSequence} {
		s.take(binary.BigEndian.AppendUint64(nil, n))
	}
	s.take([]byte("short"))
	st := s.state()
	if st.Received != 4 || st.Highest != 70 || st.Missing != 67 || st.Duplicates != 1 || st.Strange != 2 {
		t.Errorf("%+v", st)
	}
	if len(st.FirstMissing) != 10 || st.FirstMissing[0] != 2 || st.FirstMissing[1] != 4 {
		t.Errorf("first missing %v", st.FirstMissing)
	}
	s.reset()
	if st := s.state(); st.Received != 0 || st.Missing != 0 {
		t.Errorf("after reset: %+v", st)
	}
}

func TestChecksum(t *testing.T) {
	b := []byte{8, 0, 0, 0, 0x12, 0x34, 0, 1}
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	if checksum(b) != 0 {
		t.Errorf("checksum over a message with its checksum is %#x, want 0", checksum(b))
	}
}
