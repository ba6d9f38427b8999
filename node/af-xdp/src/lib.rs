//! AF_XDP sockets, UMEM, rings and the steering program.
