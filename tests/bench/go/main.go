// The peer in Go, a good engineer's afternoon: net/http, go-redis, shared bytes, a bounded queue a client, replay from
// memory. Arguments: PORT URL STREAM.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const kept, queued = 100_000, 1024

type event struct {
	id, operation, project string
	frame                  []byte
}

type listener struct {
	topic  string
	queue  chan []byte
	closed chan struct{}
}

type hub struct {
	sync.Mutex
	topics  map[string]map[*listener]struct{}
	history map[string][]*event
	log     []*event
}

func (h *hub) publish(e *event) {
	h.Lock()
	defer h.Unlock()
	if len(h.log) >= kept {
		old := h.log[0]
		h.log = h.log[1:]
		for _, topic := range []string{"o" + old.operation, "p" + old.project} {
			h.history[topic] = h.history[topic][1:]
		}
	}
	h.log = append(h.log, e)
	for _, topic := range []string{"o" + e.operation, "p" + e.project} {
		h.history[topic] = append(h.history[topic], e)
		for l := range h.topics[topic] {
			select {
			case l.queue <- e.frame:
			default: // too slow: it comes back by its Last-Event-ID
				close(l.closed)
				delete(h.topics[topic], l)
			}
		}
	}
}

// join returns what the listener has missed; what comes later is in its queue.
func (h *hub) join(l *listener, last string) (missed [][]byte) {
	h.Lock()
	defer h.Unlock()
	if h.topics[l.topic] == nil {
		h.topics[l.topic] = map[*listener]struct{}{}
	}
	h.topics[l.topic][l] = struct{}{}
	events := h.history[l.topic]
	for i := len(events) - 1; last != "" && i >= 0 && events[i].id != last; i-- {
		missed = append(missed, events[i].frame)
	}
	for i, j := 0, len(missed)-1; i < j; i, j = i+1, j-1 {
		missed[i], missed[j] = missed[j], missed[i]
	}
	return missed
}

func (h *hub) leave(l *listener) {
	h.Lock()
	defer h.Unlock()
	delete(h.topics[l.topic], l)
}

func (h *hub) stream(topic string, w http.ResponseWriter, r *http.Request) {
	l := &listener{topic, make(chan []byte, queued), make(chan struct{})}
	missed := h.join(l, r.Header.Get("Last-Event-ID"))
	defer h.leave(l)
	flusher := w.(http.Flusher)
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	for _, frame := range missed {
		w.Write(frame)
	}
	flusher.Flush()
	beat := time.NewTicker(15 * time.Second)
	defer beat.Stop()
	for {
		select {
		case frame := <-l.queue:
			w.Write(frame)
			for more := true; more; { // what has piled up leaves in one write
				select {
				case frame := <-l.queue:
					w.Write(frame)
				default:
					more = false
				}
			}
			flusher.Flush()
		case <-beat.C:
			w.Write([]byte(": \n\n"))
			flusher.Flush()
		case <-l.closed:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func main() {
	port, url, stream := os.Args[1], os.Args[2], os.Args[3]
	h := &hub{topics: map[string]map[*listener]struct{}{}, history: map[string][]*event{}}
	http.HandleFunc("/api/", func(w http.ResponseWriter, r *http.Request) {
		parts := strings.Split(r.URL.Path, "/") // /api/{operations,projects}/{id}/stream
		h.stream(parts[2][:1]+parts[3], w, r)
	})
	listening, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal(http.Serve(listening, nil)) }()
	options, err := redis.ParseURL(url)
	if err != nil {
		log.Fatal(err)
	}
	client, last := redis.NewClient(options), "0"
	fmt.Println("listening")
	for {
		read, err := client.XRead(context.Background(), &redis.XReadArgs{Streams: []string{stream, last}, Count: 512, Block: time.Second}).Result()
		if err != nil && err != redis.Nil {
			log.Fatal(err)
		}
		for _, s := range read {
			for _, m := range s.Messages {
				last = m.ID
				var ids struct{ OperationId, ProjectId string }
				data := m.Values["data"].(string)
				if json.Unmarshal([]byte(data), &ids) != nil {
					continue
				}
				frame := fmt.Sprintf("id: %s\nevent: %s\ndata: %s\n\n", m.ID, m.Values["type"], data)
				h.publish(&event{m.ID, ids.OperationId, ids.ProjectId, []byte(frame)})
			}
		}
	}
}
