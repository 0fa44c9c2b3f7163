package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
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
