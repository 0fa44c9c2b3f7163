package netns

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// losses is what the kernel counts as lost in a namespace: by its interfaces, by its protocols, and, the
// same in all namespaces, by the queues of the CPUs. It is for people who look for a datagram.
func (s *Space) losses() string {
	var b strings.Builder
	err := s.Do(func() error {
		links, err := s.Link.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			a := l.Attrs()
			if st := a.Statistics; st != nil && st.RxDropped+st.TxDropped+st.RxErrors+st.TxErrors > 0 {
				fmt.Fprintf(&b, "%s rx-dropped %d tx-dropped %d rx-errors %d tx-errors %d; ",
					a.Name, st.RxDropped, st.TxDropped, st.RxErrors, st.TxErrors)
			}
		}
		for _, file := range []string{"/proc/thread-self/net/snmp", "/proc/thread-self/net/netstat"} {
			if err := nonZero(&b, file); err != nil {
				return err
			}
		}
		softnet, err := os.ReadFile("/proc/thread-self/net/softnet_stat")
		for cpu, line := range strings.Split(strings.TrimSpace(string(softnet)), "\n") {
			if f := strings.Fields(line); len(f) > 1 && strings.Trim(f[1], "0") != "" {
				fmt.Fprintf(&b, "CPU %d's queue was full 0x%s times; ", cpu, f[1])
			}
		}
		return err
	})
	if err != nil {
		fmt.Fprint(&b, err)
	}
	return b.String()
}

// nonZero writes the counters of a file of names and values by turns whose names speak of loss.
func nonZero(b *strings.Builder, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		names := strings.Fields(lines.Text())
		if !lines.Scan() {
			break
		}
		for i, v := range strings.Fields(lines.Text()) {
			if i == 0 || i >= len(names) || v == "0" {
				continue
			}
			for _, bad := range []string{"Err", "Discard", "Drop", "NoRoutes", "NoPorts", "Fail"} {
				if strings.Contains(names[i], bad) {
					fmt.Fprintf(b, "%s %s %s; ", strings.TrimSuffix(names[0], ":"), names[i], v)
				}
			}
		}
	}
	return lines.Err()
}
