// Command probe makes and answers traffic in the pods of the test cluster, as the
// machine that a VM would be.
//
//	probe [-launcher [-tap NAME | -mac MAC]] [-nic net1] [-addr 10.100.0.1/24]
//
// It listens on three ports: on 80, TCP gets the host's name for an answer, UDP its
// own datagrams; on 22, TCP the same; on 7001 it takes requests of the test by HTTP.
// With -launcher the NIC becomes what KubeVirt makes of it (launcher.go), and address
// and MAC are those of the VM.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"

	"github.com/homeport-cni/homeport/test/cluster/node"
)

func main() {
	launcher := flag.Bool("launcher", false, "wire the NIC as KubeVirt does")
	nic := flag.String("nic", "net1", "the `interface` that Homeport made")
	addr := flag.String("addr", "", "`address` with prefix length")
	tap := flag.String("tap", "", "the `interface` that leads to the VM; without one the pod plays the VM")
	mac := flag.String("mac", "", "`MAC` of a VM that the pod plays; without one it is the NIC's")
	flag.Parse()
	if err := run(*launcher, *nic, *tap, *mac, *addr); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(launcher bool, nic, tap, mac, addr string) error {
	if launcher {
		var err error
		if nic, err = wireLauncher(nic, tap, mac); err != nil {
			return err
		}
	}
	if addr != "" {
		if err := giveAddress(nic, addr); err != nil {
			return err
		}
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	for _, port := range []int{80, 22} {
		if err := serveTCP(port, host); err != nil {
			return err
		}
	}
	if err := serveUDP(80); err != nil {
		return err
	}
	all := &floods{to: map[string]*flood{}}
	http.HandleFunc("/tcp", func(w http.ResponseWriter, r *http.Request) { answer(w)(ask(r.FormValue("to"))) })
	http.HandleFunc("/mac", func(w http.ResponseWriter, _ *http.Request) { answer(w)(macs()) })
	http.HandleFunc("/announce", func(w http.ResponseWriter, _ *http.Request) { answer(w)("announced", announce(nic)) })
	http.HandleFunc("/know", func(w http.ResponseWriter, r *http.Request) {
		answer(w)("known", know(nic, r.FormValue("ip"), r.FormValue("mac")))
	})
	http.HandleFunc("/pause", func(w http.ResponseWriter, r *http.Request) {
		answer(w)("paused", pause(nic, r.FormValue("end") == ""))
	})
	http.HandleFunc("/first", func(w http.ResponseWriter, r *http.Request) {
		answer(w)(first(nic, r.FormValue("addr"), r.FormValue("to"), r.URL.Query()["port"]))
	})
	http.HandleFunc("/flood", func(w http.ResponseWriter, r *http.Request) { answer(w)(all.start(r.FormValue("to"))) })
	http.HandleFunc("/ebb", func(w http.ResponseWriter, r *http.Request) { answer(w)(all.end(r.FormValue("to"))) })
	return http.ListenAndServe(":"+strconv.Itoa(node.ProbePort), nil)
}

// answer writes a value as JSON, or an error as status 502.
func answer(w http.ResponseWriter) func(v any, err error) {
	return func(v any, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		_ = json.NewEncoder(w).Encode(v)
	}
}

// macs gives the MAC of each interface.
func macs() (any, error) {
	all, err := net.Interfaces()
	out := map[string]string{}
	for _, i := range all {
		out[i.Name] = i.HardwareAddr.String()
	}
	return out, err
}
