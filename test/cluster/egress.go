package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
)

// egressConfig has the API server reach kubelets, for logs and exec, by a proxy: it
// could not resolve their names, nor reach their addresses.
func egressConfig(socket string) string {
	return fmt.Sprintf(`apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
- name: cluster
  connection: {proxyProtocol: HTTPConnect, transport: {uds: {udsName: %s}}}
`, socket)
}

// serveEgress answers CONNECT NODE:PORT with a connection to the node's kubelet,
// until the listener is closed.
func serveEgress(l net.Listener, kubelet func(node string) (port int, ok bool)) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			go egress(conn, kubelet)
		}
	}
}

func egress(conn net.Conn, kubelet func(node string) (int, bool)) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	req, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	node, _, err := net.SplitHostPort(req.Host)
	port, ok := kubelet(node)
	if req.Method != http.MethodConnect || err != nil || !ok {
		fmt.Fprint(conn, "HTTP/1.1 404 Not Found\r\n\r\n")
		return
	}
	to, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		fmt.Fprint(conn, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
		return
	}
	defer to.Close()
	fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		_, _ = io.Copy(to, in)
		to.Close()
	}()
	_, _ = io.Copy(conn, to)
}
