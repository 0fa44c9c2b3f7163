package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/homeport-cni/homeport/test/cluster/node"
)

// handlers are what the test may ask of a node.
func handlers() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("POST /run", execute)
	m.Handle("GET /pod/{ip}/{what}", &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = "http", r.In.PathValue("ip")+":"+strconv.Itoa(node.ProbePort)
		r.Out.URL.Path = "/" + r.In.PathValue("what")
	}})
	return m
}

// serveAPI passes requests on to the API server, for Multus: it begins with a new
// connection for each pod, and gives up after 2.5 seconds, in which an emulated
// machine that is busy may not get through TLS. It is Multus for the API server.
func serveAPI(conf *node.Conf) error {
	ca, err := os.ReadFile(node.Dir + "/ca.crt")
	if err != nil {
		return err
	}
	token, err := os.ReadFile(node.Dir + "/multus.token")
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return errors.New("no certificate in ca.crt")
	}
	l, err := net.Listen("tcp", node.APIProxy)
	if err != nil {
		return err
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "https", Host: conf.API})
			r.Out.Header.Set("Authorization", "Bearer "+string(token)) // clients send none without TLS
		},
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true},
	}
	go func() { say("%v", http.Serve(l, proxy)) }()
	return nil
}

// execute runs a node.Command and answers with its node.Outcome.
func execute(w http.ResponseWriter, r *http.Request) {
	var c node.Command
	if err := json.NewDecoder(r.Body).Decode(&c); err != nil || len(c.Argv) == 0 {
		http.Error(w, fmt.Sprintf("not a command: %v", err), http.StatusBadRequest)
		return
	}
	cmd := exec.CommandContext(r.Context(), c.Argv[0], c.Argv[1:]...)
	cmd.Stdin = strings.NewReader(c.Stdin)
	out, err := cmd.CombinedOutput()
	o := node.Outcome{Out: string(out)}
	exit := (*exec.ExitError)(nil)
	switch {
	case errors.As(err, &exit):
		o.Code = exit.ExitCode()
	case err != nil:
		o.Code, o.Out = 127, o.Out+err.Error()
	}
	_ = json.NewEncoder(w).Encode(o)
}
